"""MART (Wang et al., 2020): misclassified images count more in the divergence of predictions; and with it SLORE."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fastiseat.config import PGD
from fastiseat.fields import require_at_least
from fastiseat.methods.base import Method
from fastiseat.methods.outputs import Outputs


@dataclass(frozen=True, kw_only=True)
class MART(Method):
    """L = mean [CE(z', y) - log(1.0001 - p'_k + 1e-12)] + (β/m) Σ KL(p ‖ p' + 1e-12) (1.0000001 - p_y).

    k is the most likely wrong class under p' = softmax z', z' = f(x'), p = softmax f(x); the gradient flows through
    all of it. From the authors' code, which attacks the cross entropy in eval mode from x + 0.001·N(0, 1), 10 steps
    of 0.007 with ε = 0.031. WRN-34-10 on CIFAR-10: 84.17% clean, 51.10% under AutoAttack (ISEAT paper, Table 2).

    With AWP (MART-AWP) ν climbs all of L; that it does is inferred. 26 units a step at K = 10, 32 with AWP.
    """

    beta: float = 6.0
    default_attack: ClassVar[PGD] = PGD(noise=0.001, bn_mode="eval")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(0, "beta", self.beta)

    def objective(self, at: Outputs, labels: Tensor) -> dict[str, Tensor]:
        """Two terms, ``adversarial`` (boosted) and ``stability`` (β included)."""
        clean, adversarial = at.clean_perturbed(), at.adversarial()
        p, p_adv = F.softmax(clean, dim=1), F.softmax(adversarial, dim=1)
        places = labels[:, None]
        wrong = p_adv.detach().scatter(1, places, -1).argmax(1, keepdim=True)
        margin = -torch.log(1.0001 - p_adv.gather(1, wrong) + 1e-12).mean()
        divergence = F.kl_div(torch.log(p_adv + 1e-12), p, reduction="none").sum(1)
        unsure = 1.0000001 - p.gather(1, places)[:, 0]
        return {
            "adversarial": F.cross_entropy(adversarial, labels) + margin,
            "stability": self.beta * (divergence * unsure).mean(),
        }

    def perturbation_loss(self, at: Outputs, labels: Tensor) -> Tensor:
        """All of L."""
        return self.whole_objective(at, labels)


@dataclass(frozen=True, kw_only=True)
class SLOREMART(MART):
    """MART + θ R, R on the probabilities of wrong classes of clean images (SLORE; the mapping onto MART is inferred).

    With p = softmax f(x), S_i = Σ_{k≠y} (p_k - (1 - p_y)/(C - 1))². S_c is its mean over the correctly classified
    images of the batch, S_w over the others, 0 where there are none (inferred, as is that it is a mean). From the
    authors' code: R = S_c - S_w in the first epoch, S_w - S_c from the 100th of 120 on, and in between plain MART; the
    90 epochs of its wide networks, with β = 6, never come to the last of these stages. 85.17% clean, 59.10% under
    PGD-20 (ISEAT paper). Units are MART's.
    """

    weight: float = 1.0
    """θ."""
    reverse_from: float = 99 / 120
    """The fraction of the run at which the last stage begins; 1 for never."""
    sign: float = 1.0
    """Of R in the present stage: 1, 0 or -1; :meth:`at_progress` knows which."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(0, "weight", self.weight)

    def at_progress(self, fraction: float) -> SLOREMART:
        """The first stage is the run's first epoch, however long the run."""
        if fraction >= self.reverse_from:
            return replace(self, sign=-1.0)
        return replace(self, sign=0.0 if fraction else 1.0)

    def reduced(self) -> Method:
        """Without its term it is MART."""
        return self if self.sign * self.weight else MART(beta=self.beta)

    def objective(self, at: Outputs, labels: Tensor) -> dict[str, Tensor]:
        """MART's terms and ``distribution`` (θ included)."""
        p = F.softmax(at.clean_perturbed(), dim=1)
        places, classes = labels[:, None], p.shape[1]
        uniform = (1 - p.gather(1, places)) / max(classes - 1, 1)
        spread = ((p - uniform).square().scatter(1, places, 0)).sum(1)
        correct = p.argmax(1) == labels
        difference = _mean_where(correct, spread) - _mean_where(~correct, spread)
        return super().objective(at, labels) | {"distribution": self.sign * self.weight * difference}


def _mean_where(mask: Tensor, values: Tensor) -> Tensor:
    """Of an empty group 0, without looking at how many there are."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)
