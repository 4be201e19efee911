"""Methods that read how their attack went, and one that starts it in its own way: taped as eager, at no pass more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from counting import CountedPasses
from side_by_side import assert_same, batch, plain, small, step, twins
from torch import Tensor

from fastiseat import AT, AWP, PGD, UserError
from fastiseat.attacks.balls import Ball
from fastiseat.attacks.record import AttackRecord, Watch
from fastiseat.attacks.starts import Start
from fastiseat.methods import Method, Outputs

ATTACK = PGD(steps=4, eps=0.1, step_size=0.03)
SEEN: list[AttackRecord] = []


@dataclass(frozen=True, kw_only=True)
class GeometryAware(Method):
    """GAIRAT's weights (Zhang et al., 2021): (1 + tanh(5 (1 - 2 κ/K))) / 2, their mean 1."""

    watch: ClassVar[Watch | None] = Watch(kappa=True, logits=True)

    def objective(self, at: Outputs, labels: Tensor) -> dict[str, Tensor]:
        assert at.attack is not None and at.attack.kappa is not None and at.attack.logits is not None
        SEEN.append(at.attack)
        weights = (1 + torch.tanh(5 * (1 - 2 * at.attack.kappa / len(at.attack.logits)))) / 2
        losses = F.cross_entropy(at.adversarial(), labels, reduction="none")
        return {"adversarial": (losses * weights / weights.sum()).sum()}

    def perturbation_loss(self, at: Outputs, labels: Tensor) -> Tensor:
        return self.whole_objective(at, labels)


@dataclass(frozen=True, kw_only=True)
class Friendly(AT):
    """FAT (Zhang et al., 2020)."""

    watch: ClassVar[Watch | None] = Watch(patience=1)


@dataclass(frozen=True)
class Corner:
    """δ = ±ε, each pixel by a coin."""

    clipped: ClassVar[bool] = True
    moves: ClassVar[bool] = True

    def __call__(self, images: Tensor, *, ball: Ball, eps: float | Tensor) -> Tensor:
        return (2 * torch.bernoulli(torch.full_like(images, 0.5)) - 1) * eps


@dataclass(frozen=True, kw_only=True)
class FromACorner(AT):
    """AT from there."""

    start: ClassVar[Start] = Corner()


METHODS = [GeometryAware(), Friendly(), FromACorner()]


@pytest.mark.parametrize("gradient", ["exact", "half-batch"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_they_are_taped_as_eager(method: Method, gradient: str) -> None:
    awp = AWP(gamma=0.01, gradient=gradient)  # type: ignore[arg-type]
    eager, tape = twins(plain(), "tape", method=method, attack=ATTACK, awp=awp)
    for seed in range(3):
        for one in (eager, tape):
            one(*batch(seed))
    assert_same(tape, eager)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_they_make_the_passes_of_plain_training(method: Method) -> None:
    units = []
    for each in (AT(), method):
        model = small()
        one = step(model, "eager", method=each, attack=ATTACK, awp=AWP(gamma=0))
        one(*batch())
        with CountedPasses(model, 5) as passes:
            one(*batch(1))
        units.append(passes.units)
    assert units[0] == units[1]


def test_kappa_is_that_of_the_answers() -> None:
    SEEN.clear()
    step(plain(), "eager", method=GeometryAware(), attack=ATTACK, awp=AWP(gamma=0))(*batch())
    record, labels = SEEN[-1], batch()[1]
    assert record.logits is not None and record.kappa is not None
    assert record.logits.shape == (4, 5, 10)
    assert not record.logits.requires_grad
    assert torch.equal(record.kappa, (record.logits.argmax(2) == labels).sum(0))


def test_a_finished_perturbation_has_no_record() -> None:
    one = step(plain(), "eager", method=GeometryAware(), attack=ATTACK, awp=AWP(gamma=0))
    x, y = batch()
    with pytest.raises(UserError, match="delta: GeometryAware reads how its attack went"):
        one(x, y, torch.zeros_like(x))
