"""PGD watched on its way: verdicts before the last step, losses, and gradients that lead nowhere."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastiseat.attacks import pgd, random_start
from fastiseat.attacks.losses import losses_of
from fastiseat.attacks.verdict import is_right
from fastiseat.engine.restore import counter_seed, own_randomness
from fastiseat.evaluation.passes import EvaluationPasses
from fastiseat.names.balls import Norm

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class PGDTrace:
    """What one run of PGD did to each of n samples; (n,) each."""

    early: Bools
    """Which are classified correctly after :attr:`WatchedPGD.early` steps."""
    robust: Bools
    """And after the last one, which is the verdict on them everywhere else."""
    spared: Bools
    """Which no iterate is an adversarial image of."""
    useless: Bools
    """Where the gradient at the start is zero, or no number."""
    losses: npt.NDArray[np.float64]
    """The cross entropy at the last iterate, in float64: float32 takes that of a confident network for 0."""


@dataclass(frozen=True, kw_only=True)
class WatchedPGD:
    """PGD by ``passes`` from the images or from random points of the ball; ``step_size`` is ε/4 by default."""

    passes: EvaluationPasses
    eps: float
    norm: Norm = "linf"
    loss: str = "ce"
    steps: int = 50
    early: int = 10
    step_size: float | None = None
    random: bool = False
    seed: int = 0

    def __call__(self, images: Tensor, labels: Tensor, *, batch_size: int) -> PGDTrace:
        """On images (n, C, H, W) as the network reads them, n at least 1."""
        parts = [
            self._batch(x, y, counter_seed(self.seed, number))
            for number, (x, y) in enumerate(zip(images.split(batch_size), labels.split(batch_size), strict=True))
        ]
        fields = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return PGDTrace(**fields)

    def _batch(self, x: Tensor, y: Tensor, seed: int) -> dict[str, npt.NDArray[np.generic]]:
        watch = _Watch(self.passes, self.loss, y)
        with own_randomness(x.device, seed):
            start = random_start(x, eps=self.eps, norm=self.norm) if self.random else torch.zeros_like(x)
            step_size = self.eps / 4 if self.step_size is None else self.step_size
            found = pgd(watch, x, start, eps=self.eps, step_size=step_size, steps=self.steps, norm=self.norm)
            watch(found.x_adv)
        right = torch.stack(watch.right)
        told = {
            "early": right[min(self.early, self.steps)],
            "robust": right[-1],
            "spared": right.all(0),
            "useless": watch.useless,
            "losses": losses_of("ce", watch.logits.double(), y, y),
        }
        return {name: tensor.cpu().numpy() for name, tensor in told.items()}


@dataclass
class _Watch:
    """The gradient for :func:`pgd`, which keeps what else the passes tell."""

    passes: EvaluationPasses
    loss: str
    labels: Tensor
    right: list[Tensor] = field(default_factory=list)
    useless: Tensor = field(init=False)
    """bool (m,): of the first pass, whose gradient is zero or no number."""
    logits: Tensor = field(init=False)
    """Of the last pass."""

    def __call__(self, x: Tensor) -> Tensor:
        there = self.passes.ascent(x, lambda z: losses_of(self.loss, z, self.labels, self.labels))
        if not self.right:
            steepest = there.gradient.flatten(1).abs().amax(1)
            self.useless = ~(steepest > 0) | ~steepest.isfinite()
        self.right.append(is_right(there.logits, self.labels))
        self.logits = there.logits
        return there.gradient
