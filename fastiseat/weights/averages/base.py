"""What a step asks of an average."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from fastiseat.weights.descent import Descent
from fastiseat.weights.state import State, Stateful


class Average(Stateful):
    """A frozen value: how weights are averaged. Its numbers do not change from step to step."""

    @abstractmethod
    def update(self, state: State, at: Descent) -> None:
        """Write ``state`` in place by ``at.write``; ``at.weights`` are updated already.

        Optimizers that average in their own sweep compute the same bits without it.
        """

    @abstractmethod
    def read(self, state: State) -> Tensor:
        """The averaged weights, (P,)."""
