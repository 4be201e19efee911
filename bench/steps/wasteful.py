"""Our own step with an attack as most people write it: it computes the weights' gradients too, and drops them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from fastiseat.engine import algorithm1
from fastiseat.engine.passes import InputGradient

# Where Algorithm 1 looks its attack's gradient up.
_NAME = "InputGradient"


class WithWeightGradients(InputGradient):
    """The same input gradient, at the cost of one more pass a call."""

    def weights_too(self) -> Mapping[str, Tensor]:
        """All of them, always."""
        return self.passes.theta


@contextmanager
def wasteful_attacks() -> Iterator[None]:
    """Every attack in the block is one."""
    found = getattr(algorithm1, _NAME)
    setattr(algorithm1, _NAME, WithWeightGradients)
    try:
        yield
    finally:
        setattr(algorithm1, _NAME, found)
