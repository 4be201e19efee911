"""ISEAT's objective, Eq. 15: adversarial cross entropy and instance-weighted logit stability.

With AWP it is ISEAT; without, the input smoothing alone, LSI.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from fastiseat.config import Objective
from fastiseat.kernels import stability_loss
from fastiseat.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class ISEAT(Method):
    """L = mean ℓ'_i + (λ/m) Σ w_i ‖z'_i - z_i‖², z' = f(x'; θ+ν), z = f(x; θ), gradient through both.

    w_i ranks AV_i = ℓ'_i - ℓ_i (Eq. 13, 14), over the whole batch. 28 units a step at K = 10, 25 without AWP.
    Defaults: the paper's CIFAR-10 setting.
    """

    lam: float = 0.1

    def __post_init__(self) -> None:
        Objective(lam=self.lam)  # the one place that knows which λ are allowed

    @property
    def needs_clean(self) -> bool:
        """λ = 0 is plain adversarial training, at its cost."""
        return self.lam != 0

    def objective(self, logits: Tensor, clean_logits: Tensor | None, labels: Tensor) -> dict[str, Tensor]:
        """Two terms, ``adversarial`` and, unless λ = 0, ``stability`` (λ included)."""
        if clean_logits is None:
            return {"adversarial": F.cross_entropy(logits, labels)}
        loss = stability_loss(logits, clean_logits, labels, lam=self.lam)
        return {"adversarial": loss.adversarial, "stability": loss.stability}
