"""ISEAT's objective, Eq. 15: adversarial cross entropy and instance-weighted logit stability.

With AWP it is ISEAT; without, the input smoothing alone, LSI.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastiseat.config import Objective
from fastiseat.methods.base import Method


def rank_weights(vulnerability: Tensor) -> Tensor:
    """w_i = 1 - r_i / m (Eq. 14), r_i = 0 for the highest of ``vulnerability`` (m,), ties in order of index.

    A permutation of 1, 1 - 1/m, …, 1/m in the dtype of ``vulnerability``.
    """
    m = len(vulnerability)
    order = vulnerability.argsort(descending=True, stable=True)
    ranks = torch.arange(m, dtype=vulnerability.dtype, device=vulnerability.device)
    return torch.empty_like(vulnerability).scatter_(0, order, 1 - ranks / m)


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
        losses = F.cross_entropy(logits, labels, reduction="none")
        terms = {"adversarial": losses.mean()}
        if clean_logits is not None:
            clean_losses = F.cross_entropy(clean_logits, labels, reduction="none")
            weights = rank_weights((losses - clean_losses).detach())
            gaps = (logits - clean_logits).square().sum(dim=1)
            terms["stability"] = self.lam * (weights * gaps).mean()
        return terms
