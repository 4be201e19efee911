"""What a step asks of a weight perturbation."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from torch import Tensor

from fastiseat.weights.arena import Arena
from fastiseat.weights.descent import Gradients, Nu
from fastiseat.weights.state import Stateful


class Theta(NamedTuple):
    """The arena's buffer that θ+ν is written into."""

    name: str
    first: Tensor
    """(P,), or in half precision its first part (Q,), rounded as it is written."""
    rest: Tensor | None
    """Then the rest, (P - Q,), in full precision."""


class Perturbation(Stateful):
    """How θ moves adversarially before the loss is taken there."""

    follows: str | None = None
    """The buffer of its state that keeps the gradients at θ+ν of the last descent, where ν goes along these; None where
    the direction is a pass of the step's own."""

    @abstractmethod
    def update(
        self, arena: Arena, gradients: Gradients, *, gamma: float | Tensor, norm: str, out: Theta
    ) -> Nu | None:
        """Write θ+ν into ``out``; ν as the optimizer takes it off again, or None where its own knows."""
