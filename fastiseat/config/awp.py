"""The perturbation of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import arg

from fastiseat.fields import check_types, require_at_least


@dataclass(frozen=True, kw_only=True)
class AWP:
    """Adversarial weight perturbation, Eq. 11 (Wu et al., 2020)."""

    gamma: Annotated[float, arg(name="awp-gamma")] = 0.007
    """γ, the size of ν relative to the weights; 0 turns it off. Paper: 0.007 CIFAR-10, 0.005 CIFAR-100 and Tiny
    ImageNet, 0.009 SVHN."""
    norm: Annotated[Literal["tensor", "global"], arg(name="awp-norm")] = "tensor"
    """Norms per weight tensor (the released code) or one over all of them (Eq. 11 as written)."""
    gradient: Annotated[
        Literal["exact", "last-attack-step", "half-batch", "previous-step"], arg(name="awp-gradient")
    ] = "exact"
    """The direction of ν. exact: a pass of its own at x', 28 units an ISEAT step. The others are approximate, with no
    published result: that of the attack's last step (26 units), of the first half of the batch (26.5), or of the loss
    of the step before (25)."""

    def __post_init__(self) -> None:
        check_types(self)
        require_at_least(0, "gamma", self.gamma)
