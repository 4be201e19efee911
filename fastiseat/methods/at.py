"""Adversarial training (Madry et al., 2018) as the ISEAT paper runs it; with AWP it is AT-AWP."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from fastiseat.methods.base import Method
from fastiseat.methods.outputs import Outputs


@dataclass(frozen=True, kw_only=True)
class AT(Method):
    """L = mean ℓ(f(x'; θ+ν), y). 23 units a step at K = 10, 26 with AWP.

    From a random start it is AT of Rice et al. (2020), with AWP that of Wu et al. (2020). Their codes pass x' once more
    to compare restarts, and x after the update, both in train mode: the running statistics are updated 13 times a step,
    here 11 times.
    """

    def objective(self, at: Outputs, labels: Tensor) -> dict[str, Tensor]:
        """One term, ``adversarial``."""
        return {"adversarial": F.cross_entropy(at.adversarial(), labels)}
