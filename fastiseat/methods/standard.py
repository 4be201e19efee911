"""No defence: cross entropy on clean images, the yardstick that shows an attack at work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from fastiseat.methods.base import Method
from fastiseat.methods.outputs import Outputs


@dataclass(frozen=True, kw_only=True)
class Standard(Method):
    """L = mean ℓ(f(x; θ), y). 3 units a step."""

    attacked: ClassVar[bool] = False

    def objective(self, at: Outputs, labels: Tensor) -> dict[str, Tensor]:
        """One term, ``clean``."""
        return {"clean": F.cross_entropy(at.adversarial(), labels)}
