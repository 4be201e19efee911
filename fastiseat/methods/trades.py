"""TRADES (Zhang et al., 2019): accuracy on clean images against the divergence of predictions around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from fastiseat.attacks.starts import Noise, Start
from fastiseat.config import PGD
from fastiseat.fields import require_at_least
from fastiseat.methods.base import Method
from fastiseat.methods.outputs import Outputs


def kl_divergence(from_logits: Tensor, to_logits: Tensor) -> Tensor:
    """Σ_i KL(p_i ‖ q_i), p and q the softmax of logits (m, C); a scalar, gradient through both."""
    p, q = F.log_softmax(from_logits, dim=1), F.log_softmax(to_logits, dim=1)
    return F.kl_div(q, p, log_target=True, reduction="sum")


@dataclass(frozen=True, kw_only=True)
class TRADES(Method):
    """L = mean CE(f(x), y) + (β/m) Σ KL(p(x) ‖ p(x')), gradient through both; the attack climbs Σ KL(p(x) ‖ p(x')).

    From the authors' code. It attacks in eval mode from x + 0.001·N(0, 1), 10 steps of 0.007 with ε = 0.031; p(x) is
    the same in all of them and computed once. Their code computes f(x) a second time, after f(x'), for the KL term,
    with a third update of BatchNorm's running statistics; here it is one pass, and two updates. Published, WRN-34-10 on
    CIFAR-10: 84.92% clean, 53.08% under AutoAttack at ε = 0.031.

    With AWP ν climbs all of L (Wu et al., 2020). 27 units a step at K = 10, 33 with AWP.
    """

    beta: float = 6.0
    needs_reference: ClassVar[bool] = True
    start: ClassVar[Start] = Noise(0.001)
    default_attack: ClassVar[PGD] = PGD(noise=0.001, bn_mode="eval")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(0, "beta", self.beta)

    def inner_loss(self, logits: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
        """Σ KL(p(x) ‖ p(x')), ``reference`` the logits of x."""
        assert reference is not None
        return kl_divergence(reference, logits)

    def objective(self, at: Outputs, labels: Tensor) -> dict[str, Tensor]:
        """Two terms, ``clean`` and ``stability`` (β included)."""
        clean, adversarial = at.clean_perturbed(), at.adversarial()
        return {
            "clean": F.cross_entropy(clean, labels),
            "stability": self.beta / len(labels) * kl_divergence(clean, adversarial),
        }

    def perturbation_loss(self, at: Outputs, labels: Tensor) -> Tensor:
        """All of L."""
        return self.whole_objective(at, labels)


@dataclass(frozen=True, kw_only=True)
class AdversarialFirst(TRADES):
    """TRADES whose running statistics see x' before x, as in RST's code (Carmon et al., 2019) and in TRADES-AWP's.

    RST's code makes these two passes; that of TRADES-AWP (Wu et al., 2020) passes x a second time after them, with a
    third update of the running statistics. 27 units a step at K = 10, 33 with AWP.
    """

    def objective(self, at: Outputs, labels: Tensor) -> dict[str, Tensor]:
        """TRADES' terms."""
        at.adversarial()
        return super().objective(at, labels)
