"""Our own step with an attack as most people write it: it computes the weights' gradients too, and drops them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fastiseat.engine import algorithm1
from fastiseat.engine.passes import InputGradient

# Where Algorithm 1 looks its attack's gradient up.
_NAME = "InputGradient"


class WithWeightGradients(InputGradient):
    """The same input gradient, at the cost of one more pass a call."""

    def _gradient(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        logits = self.passes(x)
        keep = self.calls == 1 and self.keep_graph
        loss = self.method.inner_loss(logits, self.labels, self.reference) * self.scale
        wanted = [x, *self.passes.theta.values()]
        gradient, *_ = torch.autograd.grad(loss, wanted, retain_graph=keep, allow_unused=True)
        if self.calls == 1:
            self.first_logits = logits if keep else logits.detach()
        return gradient


@contextmanager
def wasteful_attacks() -> Iterator[None]:
    """Every attack in the block is one."""
    found = getattr(algorithm1, _NAME)
    setattr(algorithm1, _NAME, WithWeightGradients)
    try:
        yield
    finally:
        setattr(algorithm1, _NAME, found)
