"""What a model card says, each only where the source tells it."""

from __future__ import annotations

import math
from typing import Any

from fastiseat.export.source import Source
from fastiseat.models.names import wrn_size
from fastiseat.recipes import METHODS

ATTACK = (
    "*clean*: unchanged images. *pgd-N*: N steps of ε/4 on the cross entropy from the image itself, L∞ ball of the "
    "training's ε, in eval mode; an image counts where the last iterate is classified correctly."
)


def text(value: object) -> str:
    """A value in Markdown: one line, nothing in it read as markup."""
    line = "".join(char if char.isprintable() else " " for char in str(value))
    return "".join(f"\\{char}" if char in "\\`*[]<>|" else char for char in line)


def architecture(arch: str) -> str:
    """The network's name in the literature."""
    size = wrn_size(arch)
    names = {"prn18": "PreActResNet-18", "small": "Small pre-activation ResNet"}
    return f"WideResNet-{size[0]}-{size[1]}" if size else names[arch]


def method(source: Source) -> str:
    """As ``fastiseat train --method`` has it; empty where it is not told."""
    return text(source.settings.get("objective.method", ""))


def dataset(source: Source) -> str:
    """Its name alone: where a user's own images lie is nobody's business."""
    return text(str(source.settings.get("data.dataset", "")).partition(":")[0])


def eps(source: Source) -> str:
    """ε, in 255ths where it is some; empty where it is not told."""
    try:
        return _pixels(float(source.settings["attack.eps"]))
    except (KeyError, ValueError, TypeError):
        return ""


def network(source: Source) -> dict[str, str]:
    """What it is and what it takes."""
    spec = source.spec
    made = {"released": "the ISEAT authors' code", "common": "RobustBench and TRADES"}[spec.variant]
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
    known = METHODS.get(settings.get("objective.method", ""))
    rows = {
        "data set": dataset(source) + ("" if run.get("data_official", True) else " (not the official files)"),
        "method": f"{method(source)}{f': {known.summary}' if known else ''}",
        "attack": _attack(source),
    }
    if run:
        rows |= _schedule(source) | _provenance(run)
    elif "epoch" in source.metadata:
        rows["weights"] = f"after {_nth_epoch(source)}"
    return {name: value for name, value in rows.items() if value}


def accuracies(source: Source) -> dict[str, float]:
    """Shares by attack, as the run measured them at its end."""
    return {text(name): share for name, share in source.result.get("accuracy", {}).items()}


def images_tested(source: Source) -> str:
    """How many of which."""
    limit = source.settings.get("data.limit_test")
    part = f"up to {limit} images of the test set, of all classes alike" if limit else "the whole test set"
    return f"{part} of {dataset(source)}"


def limits(source: Source) -> list[str]:
    """What the numbers do not say."""
    found = ["Robust here means against small L∞ changes of pixels, not against other corruptions or other data."]
    if accuracies(source):
        found.append("PGD gives an upper bound: a stronger attack, such as AutoAttack, finds more errors.")
    if accuracies(source) and source.result.get("weights") == "best" and not source.settings.get("data.val_split"):
        found.append(
            "The best epoch was chosen by PGD-10 on the test set itself, as in the paper: a little optimistic."
        )
    return [
        *found,
        *(f"Trained with an approximation: {text(name)}." for name in source.run.get("approximations", [])),
    ]


def tags(source: Source) -> list[str]:
    """For the Hub's search."""
    family = "wide-resnet" if wrn_size(source.spec.arch) else "preact-resnet"
    names = ["adversarial-training", "adversarial-robustness", family, "fastiseat"]
    return [*names, *([method(source)] if method(source) else [])]


def _attack(source: Source) -> str:
    settings = source.settings
    if not eps(source) or settings.get("objective.method") == "none":
        return ""
    found = f"L∞, ε = {eps(source)}"
    if "attack.steps" in settings:
        found += f", {settings['attack.steps']} steps of {_pixels(settings['attack.step_size'])}"
    weighted = {"λ": settings.get("objective.lam"), "γ": settings.get("awp.gamma")}
    return ", ".join([found, *(f"{name} = {value:g}" for name, value in weighted.items() if value)])


def _schedule(source: Source) -> dict[str, str]:
    settings = source.settings
    return {
        "weights": f"{text(source.result.get('weights', ''))} after {_nth_epoch(source)} of "
        f"{settings['schedule.epochs']}".strip(),
        "optimizer": f"SGD, learning rate {settings['optimizer.lr']:g}, momentum {settings['optimizer.momentum']:g}, "
        f"weight decay {settings['optimizer.weight_decay']:g}, batches of {settings['data.batch_size']}",
        "seed": text(settings["run.seed"]),
    }


def _nth_epoch(source: Source) -> str:
    epoch = source.metadata.get("epoch", "")
    return f"epoch {int(epoch) + 1}" if epoch.isdecimal() else "an epoch that is not told"


def _provenance(run: Any) -> dict[str, str]:
    versions = run.get("versions", {})
    named = [f"{name} {text(versions[name])}" for name in ("fastiseat", "torch", "python") if versions.get(name)]
    commit = [f"commit `{text(versions['commit'])}`"] if versions.get("commit") else []
    where = [f"on {text(run['device'])}"] if run.get("device") else []
    return {"made with": ", ".join([*named, *commit, *where]), "started": text(run.get("started", ""))}


def _pixels(value: float) -> str:
    levels = value * 255
    whole = math.isfinite(levels) and levels >= 1 and abs(levels - round(levels)) < 1e-6
    return f"{round(levels)}/255" if whole else f"{value:.4g}"
