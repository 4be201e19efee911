"""``torch.optim.SGD`` by the package's own kernel: one sweep over all weights, an average of them included."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastiseat import config
from fastiseat.config import MOMENTUM
from fastiseat.kernels import sgd
from fastiseat.weights.averages.ema import AVERAGE, EMA
from fastiseat.weights.descent import Averaging, Descent
from fastiseat.weights.optimizers import UpdateRule
from fastiseat.weights.state import State


class FusedSGD(UpdateRule):
    """:func:`fastiseat.kernels.sgd`. A buffer of zeros is what PyTorch calls none: the first b is the gradient."""

    averages = (EMA,)

    def init(self, weights: Tensor) -> State:
        """The momentum b, zeros; it is there without momentum too, which may come on later."""
        return {MOMENTUM: torch.zeros_like(weights)}

    def update(self, state: State, at: Descent, numbers: config.SGD) -> None:
        """θ ← θ - lr·b at θ+ν (Eq. 18). Without momentum b stays as it is, as in PyTorch."""
        sgd(
            at.weights,
            state[MOMENTUM] if MOMENTUM in at.writes else None,
            at.grad,
            at.segments,
            lr=numbers.lr,
            momentum=numbers.momentum,
            weight_decay=numbers.weight_decay,
            second_grad=at.second_grad,
            perturbation_grad=None if at.nu is None else at.nu.grad,
            ratio=None if at.nu is None else at.nu.ratio,
            active=at.active,
            skip=at.skip,
            nesterov=numbers.nesterov,
            **_fused(at.averaging),
        )


def _fused(averaging: Averaging | None) -> dict[str, Any]:
    if averaging is None:
        return {}
    assert isinstance(averaging.average, EMA)
    return {"ema": averaging.state[AVERAGE], "ema_decay": averaging.average.decay}
