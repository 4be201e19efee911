"""What a model card says, each only where the source tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastiseat.config import PGD, pixels_in_words
from fastiseat.export.source import Source
from fastiseat.names.balls import Ball, ball_words
from fastiseat.names.networks import FORMS, family_of, title
from fastiseat.recipes import METHODS

_SGD = {
    "optimizer.lr": "learning rate",
    "optimizer.momentum": "momentum",
    "optimizer.weight_decay": "weight decay",
    "data.batch_size": "batches of",
}


def line(value: object) -> str:
    """A value in one line."""
    return "".join(char if char.isprintable() else " " for char in str(value))


def text(value: object) -> str:
    """A value in Markdown: one line, nothing in it read as markup."""
    return "".join(f"\\{char}" if char in "\\`*[]<>|" else char for char in line(value))


def architecture(arch: str) -> str:
    """The network's name in the literature."""
    return title(arch)


def method(source: Source) -> str:
    """As ``fastiseat train --method`` has it; empty where it is not told."""
    return line(source.settings.get("objective.method", ""))


def dataset(source: Source) -> str:
    """Its name alone: where a user's own images lie is nobody's business."""
    return line(source.settings.get("data.dataset", "")).partition(":")[0]


def eps(source: Source) -> str:
    """ε, in 255ths where it is some; empty where it is not told."""
    return _pixels(source.settings.get("attack.eps", ""))


def ball(source: Source) -> Ball:
    """Of that ε; files of earlier versions tell none, and are of the L∞ ball."""
    return ball_words(str(source.settings.get("attack.norm", PGD().norm)))


def attacks(source: Source) -> str:
    """What the numbers are measured by."""
    return (
        "*clean*: unchanged images. *pgd-N*: N steps of ε/4 on the cross entropy from the image itself, "
        f"{ball(source).sign} ball of the training's ε, in eval mode; an image counts where the last iterate is "
        "classified correctly."
    )


def network(source: Source) -> dict[str, str]:
    """What it is and what it takes."""
    spec = source.spec
    made = FORMS[spec.variant].code
    count = sum(parameter.numel() for parameter in source.model.parameters())
    return {
        "architecture": f"{architecture(spec.arch)}, `{spec.variant}` variant: blocks as in {made}",
        "parameters": f"{count:,}",
        "input": f"NCHW, C = {spec.in_channels}, values in [0, 1], normalised no further",
        "output": f"logits of {spec.num_classes} classes",
    }


def training(source: Source) -> dict[str, str]:
    """Settings, versions and place of the run, or the little that a weights file tells."""
    settings, run = source.settings, source.run
    known = METHODS.get(str(settings.get("objective.method")))
    rows = {
        "data set": text(dataset(source))
        + ("" if run.get("data_official", True) else " (not the official files)")
        + ("" if run.get("data_verified", True) else " (not compared with what was prepared)"),
        "method": f"{text(method(source))}{f': {known.summary}' if known else ''}",
        "attack": _attack(source),
    }
    if run:
        rows |= _schedule(source) | _provenance(run)
    elif "method" in source.metadata and "epoch" in source.metadata:  # a file of ours, which counts from 0
        rows["weights"] = f"after {_nth_epoch(source)}"
    return {name: value for name, value in rows.items() if value}


def accuracies(source: Source) -> dict[str, float]:
    """Shares by attack, as the run measured them at its end."""
    return {line(name): share for name, share in source.result.get("accuracy", {}).items()}


def images_tested(source: Source) -> str:
    """How many of which."""
    limit = source.settings.get("data.limit_test")
    part = f"up to {limit} images of the test set, of all classes alike" if limit else "the whole test set"
    return f"{part} of {text(dataset(source))}"


def limits(source: Source) -> list[str]:
    """What the numbers do not say."""
    found = [
        f"Robust here means against small {ball(source).sign} changes of pixels, not against other corruptions or "
        "other data."
    ]
    if accuracies(source):
        found.append("PGD gives an upper bound: a stronger attack, such as AutoAttack, finds more errors.")
    if accuracies(source) and source.result["weights"] == "best" and not source.settings.get("data.val_split"):
        found.append(
            "The best epoch was chosen by PGD-10 on the test set itself, the paper's protocol: optimistic."
        )
    approximations = source.run.get("approximations") or []
    return [*found, *(f"Trained with an approximation: {text(name)}." for name in approximations)]


def tags(source: Source) -> list[str]:
    """For the Hub's search."""
    names = ["adversarial-training", "adversarial-robustness", family_of(source.spec.arch).tag, "fastiseat"]
    return [*names, *([method(source)] if method(source) else [])]


def _attack(source: Source) -> str:
    settings = source.settings
    if not eps(source) or settings.get("objective.method") == "none":
        return ""
    steps = [f"{settings['attack.steps']} steps"] if "attack.steps" in settings else []
    named = {"step": "attack.step_size", "λ": "objective.lam", "γ": "awp.gamma"}
    weighted = [f"{name} = {_pixels(settings[key])}" for name, key in named.items() if settings.get(key)]
    return ", ".join([f"{ball(source).sign}, ε = {eps(source)}", *steps, *weighted])


def _schedule(source: Source) -> dict[str, str]:
    settings = source.settings
    sgd = [f"{words} {text(settings[name])}" for name, words in _SGD.items() if name in settings]
    which, epochs = source.result.get("weights", ""), text(settings.get("schedule.epochs", "?"))
    return {
        "weights": f"{which} after {_nth_epoch(source)} of {epochs}".strip(),
        "start": "the weights of another network" if settings.get("network.init") else "",
        "extra data": f"{text(settings['data.extra_ratio'])} of each batch" if settings.get("data.extra") else "",
        "optimizer": ", ".join(["SGD", *sgd]),
        "seed": text(settings.get("run.seed", "")),
    }


def _nth_epoch(source: Source) -> str:
    epoch = source.metadata.get("epoch", "")
    return f"epoch {int(epoch) + 1}" if epoch.isdecimal() else "an epoch that is not told"


def _provenance(run: Mapping[str, Any]) -> dict[str, str]:
    versions = dict(run.get("versions") or {})
    named = [f"{name} {text(versions[name])}" for name in ("fastiseat", "torch", "python") if versions.get(name)]
    commit = [f"commit `{text(versions['commit'])}`"] if versions.get("commit") else []
    where = [f"on {text(run['device'])}"] if run.get("device") else []
    precision = [f"precision {text(run['precision'])}"] if run.get("precision") else []
    made = ", ".join([*named, *commit, *where, *precision])
    return {"made with": made, "started": text(run.get("started", ""))}


def _pixels(value: Any) -> str:
    """In 255ths where it is some."""
    try:
        return pixels_in_words(float(value))
    except (ValueError, TypeError):
        return text(value)
