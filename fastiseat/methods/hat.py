"""HAT (Rade & Moosavi-Dezfooli, 2022): TRADES, and helper images beyond x' with a standard network's labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from fastiseat.fields import require_at_least
from fastiseat.methods.base import Method
from fastiseat.methods.outputs import Outputs
from fastiseat.methods.trades import TRADES


@dataclass(frozen=True, kw_only=True)
class HAT(TRADES):
    """L = CE(f(x), y) + (β/m) Σ KL(p(x) ‖ p(x')) + γ CE(f(x + h (x' - x)), argmax f_std(x')), CE the batch's mean.

    f_std is a network that was trained without a defence; its labels undo the needless margin along the attack. From
    the authors' code: TRADES' attack at ε = 8/255, h = 2, β = 2.5, γ = 0.5. Helper images are not clipped, and pass
    the network after x and x'. Published, ResNet-18: CIFAR-10 84.90% clean, 49.08% under AutoAttack; Tiny ImageNet
    52.60% and 18.14%.

    With AWP, which the paper has not, ν climbs all of L as in TRADES-AWP. 31 units a step at K = 10, 41 with AWP, of
    which 1 and 2 are f_std's.
    """

    standard: nn.Module
    """f_std: of the dtype and on the device of the network in training, with the same classes."""
    beta: float = 2.5
    h: float = 2.0
    """How far helper images lie from x, in lengths of x' - x."""
    gamma: float = 0.5
    """γ, the weight of their term; not that of the weight perturbation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("h", "gamma"):
            require_at_least(0, name, getattr(self, name))

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """f_std."""
        return (self.standard,)

    def reduced(self) -> Method:
        """γ = 0 is TRADES, at its cost."""
        return self if self.gamma else TRADES(beta=self.beta)

    def objective(self, at: Outputs, labels: Tensor) -> dict[str, Tensor]:
        """TRADES' terms and ``helper`` (γ included)."""
        terms = super().objective(at, labels)
        helper = at.perturbed(at.x + self.h * (at.x_adv - at.x))
        answers = at.frozen(self.standard, at.x_adv)
        # 0, or a NaN that ends the run: argmax takes a NaN of f_std for its label.
        nothing = (answers - answers).sum()
        return terms | {"helper": self.gamma * F.cross_entropy(helper, answers.argmax(1)) + nothing}
