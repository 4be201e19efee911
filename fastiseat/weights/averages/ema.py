"""The exponential moving average of the weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastiseat.fields import check_types, require
from fastiseat.weights.averages.base import Average
from fastiseat.weights.descent import Descent
from fastiseat.weights.state import State

AVERAGE = "average"


@dataclass(frozen=True, kw_only=True)
class EMA(Average):
    """average ← decay·average + (1 - decay)·θ after each step, from the first weights on.

    A step that is skipped, and a weight without a gradient in it, leave it as it is.
    """

    decay: float = 0.999
    """The share of the average that stays, 0 … 1, 1 excluded."""

    def __post_init__(self) -> None:
        check_types(self)
        require(0 <= self.decay < 1, "decay", self.decay, "must lie in 0 … 1, 1 excluded")

    def init(self, weights: Tensor) -> State:
        """The weights themselves."""
        return {AVERAGE: weights.clone()}

    def update(self, state: State, at: Descent) -> None:
        """As :func:`fastiseat.kernels.sgd` does, in the same order and bits."""
        decay = at.number(self.decay)
        at.write(state[AVERAGE], decay * state[AVERAGE] + (1 - decay) * at.weights)

    def read(self, state: State) -> Tensor:
        """See :class:`Average`."""
        return state[AVERAGE]
