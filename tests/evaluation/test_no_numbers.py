"""NaN and ∞ are no class: an error on an image itself, wrong on an attacked one, whatever attacks and computes it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from unanswered import SPOILS, Unbreakable, images_for, short  # noqa: F401 (a fixture)

import fastiseat
from fastiseat.attacks.verdict import is_right
from fastiseat.errors import UserError
from fastiseat.evaluation import ATTACKS, Evaluator, NotFiniteError, any_attack_named, sanity_checks
from fastiseat.evaluation.ensemble.ensembles import ensemble_named
from fastiseat.evaluation.ensemble.official import Official
from fastiseat.evaluation.samples import Samples
from fastiseat.evaluation.verdicts.confirm import confirmed
from fastiseat.evaluation.verdicts.ensemble_state import EnsembleState
from fastiseat.names import AUTOATTACK, ENSEMBLES
from fastiseat.pipelines.protocol.base import Split

EPS = {"linf": 0.1, "l2": 0.6}
SPOILT = (1, 4)
ATTACKING = [name for name in ATTACKS if name != "clean"]
pytestmark = pytest.mark.usefixtures("short")


def robust(model: torch.nn.Module, name: str, norm: str, **settings: Any) -> list[int]:
    """Which of 5 images in batches of 4 are broken."""
    found = fastiseat.evaluate(
        model, *images_for(SPOILT), [name], eps=EPS[norm], norm=norm, batch_size=2, **settings
    )
    (verdicts,) = found.values()
    return torch.nonzero(~verdicts.robust).flatten().tolist()


@pytest.mark.parametrize(
    ("name", "engine"),
    [*((name, "eager") for name in ATTACKING), *((name, "tape") for name in ATTACKING if name not in ENSEMBLES)],
)
@pytest.mark.parametrize("norm", EPS)
def test_an_attacked_image_without_an_answer_is_broken(name: str, norm: str, engine: str) -> None:
    """By each attack alone, in full batches and in the one that is left over; nothing else ever breaks.

    Recorded, too, but for ensembles of what is recorded alone.
    """
    assert robust(Unbreakable(), name, norm, engine=engine) == [1, 4]


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("name", ["fgsm", "cw", "apgd-t", "fab-t", "square"])
def test_whatever_is_no_number(name: str, spoil: str) -> None:
    for norm in EPS:
        assert robust(Unbreakable(spoil), name, norm) == [1, 4]
        assert robust(Unbreakable(spoil).double(), name, norm) == [1, 4]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["pgd", "aa"])
def test_found_in_half_precision(name: str, precision: str) -> None:
    assert robust(Unbreakable(), name, "linf", precision=precision) == [1, 4]


def test_found_in_half_precision_then_in_full() -> None:
    images, labels = images_for(SPOILT)
    split = Split(images=images.numpy(), labels=labels.numpy())
    full, half = (Evaluator(Unbreakable(), precision=precision, batch_size=2) for precision in ("full", "bf16"))
    attack = any_attack_named("pgd", eps=0.1)
    verdicts = confirmed(full, half, split, attack, seed=0, progress=lambda _: None)  # type: ignore[arg-type]
    assert torch.from_numpy(~verdicts).nonzero().flatten().tolist() == [1, 4]


def test_restarts() -> None:
    assert robust(Unbreakable(), "pgd", "linf", restarts=3) == [1, 4]


class Overflowing(Unbreakable):
    """What no number answers in half precision is a right answer in float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        return logits if torch.is_autocast_enabled(x.device.type) else logits.nan_to_num(10, 10, 10)


def test_half_precision_alone_breaks_nobody() -> None:
    found = fastiseat.evaluate(
        Overflowing("another's -∞"), *images_for(SPOILT), ["pgd", "cw"], eps=0.1, precision="fp16"
    )
    assert all(verdicts.accuracy == 1 for verdicts in found.values())


def everywhere() -> Iterator[tuple[str, Any]]:
    """All that evaluates, called with a network that has no answer to images 1 and 4 themselves."""
    images, labels = images_for(SPOILT)
    for name, engine in itertools.product(ATTACKS, ("eager", "tape")):
        yield (
            f"{name} {engine}",
            lambda model, name=name, engine=engine: fastiseat.evaluate(
                model, images, labels, [name], eps=0.1, batch_size=2, engine=engine
            ),
        )
    for precision in ("bf16", "fp16"):
        yield (
            f"pgd {precision}",
            lambda model, precision=precision: fastiseat.evaluate(
                model, images, labels, ["pgd"], eps=0.1, batch_size=2, precision=precision
            ),
        )
    samples = Samples(images, labels)
    yield (
        "sanity",
        lambda model: sanity_checks(Evaluator(model, batch_size=2), samples, eps=0.1, norm="linf", num_classes=5),
    )
    yield "official", lambda model: official(model).run_ensemble(samples, EnsembleState.fresh(5))


def official(
    model: torch.nn.Module, *, batch_size: int = 2, parts: tuple[str, ...] = tuple(AUTOATTACK)
) -> Official:
    attack = Official(
        model, eps=0.1, norm="linf", num_classes=5, batch_size=batch_size, seed=0, say=lambda _: None
    )
    theirs = attack._attack
    theirs.apgd.n_iter = theirs.apgd_targeted.n_iter = 4
    theirs.fab.n_iter, theirs.square.n_queries = 24, 8
    return attack


CALLS = dict(everywhere())


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("spoil", ["all NaN", "the label's ∞"])
def test_without_an_answer_to_an_image_itself_there_is_no_verdict(call: str, spoil: str) -> None:
    with pytest.raises(NotFiniteError) as refused:
        CALLS[call](Unbreakable(spoil, perturbed=False))
    assert isinstance(refused.value, UserError) and "\n" not in str(refused.value)
    assert "not finite numbers on 2 of 5 images, the first of them image 1, counted from 0: " in str(refused.value)
    assert "or leave these images out" in str(refused.value)


@pytest.mark.parametrize("spoil", ["all NaN", "the label's ∞"])
def test_the_authors_code_is_not_told_a_class(spoil: str) -> None:
    """It takes NaN for class 0, that of images 1 and 4, and FAB-T makes NaN of an image."""
    ensemble_state = EnsembleState.fresh(5)
    official(Unbreakable(spoil)).run_ensemble(Samples(*images_for(SPOILT)), ensemble_state)
    assert ensemble_state.broken_by.tolist() == [-1, 1, -1, -1, 1]


def test_an_unfinished_evaluation_marks_nobody_as_wrong() -> None:
    """The images of the first batch, which have an answer, neither."""
    images, labels = images_for((4,))
    ensemble_state = EnsembleState.fresh(5)
    evaluator, attack = Evaluator(Unbreakable(perturbed=False), batch_size=2), any_attack_named("aa", eps=0.1)
    ensemble = ensemble_named("aa", norm="linf", num_classes=5)
    with pytest.raises(NotFiniteError):
        evaluator.run_ensemble(Samples(images, 1 - labels), attack, ensemble, ensemble_state)  # type: ignore[arg-type]
    assert ensemble_state.broken_by.tolist() == [-1] * 5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_rule(value: float) -> None:
    logits = torch.tensor([[2.0, 1, 0], [2, value, 0], [value, 1, 0], [0, 1, 2]])
    assert is_right(logits, torch.tensor([0, 0, 0, 0])).tolist() == [True, False, False, False]
