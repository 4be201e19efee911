"""What takes a step down the gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import arg

from fastiseat.fields import check_types, require, require_at_least

MOMENTUM = "momentum_buffers"
"""The name of SGD's state."""


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """What every optimizer's entry says beside its numbers, of which ``lr`` may change from step to step."""

    @abstractmethod
    def home(self) -> str:
        """Its code, ``module:class``, a :class:`fastiseat.weights.optimizers.UpdateRule`."""

    def writes(self) -> tuple[str, ...] | None:
        """The names of its state that a step with these numbers writes; None for all."""
        return None


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent with the semantics of ``torch.optim.SGD``, applied at θ+ν (Eq. 18)."""

    lr: float = 0.1
    """Learning rate: that of the first stage, or the highest of another lr_shape. Paper: 0.1, SVHN 0.01."""
    momentum: float = 0.9
    """Momentum, where lr_shape onecycle does not cycle it. Paper: 0.9."""
    nesterov: bool = False
    """Nesterov's momentum, a look ahead of one step. Paper: off; RST and HAT: on."""
    weight_decay: float = 5e-4
    """Weight decay on all parameters, BatchNorm and biases too. Paper: 5e-4."""
    implementation: Annotated[Literal["own", "apex"], arg(name="optimizer")] = "own"
    """Who computes the update and the norms of the weight perturbation. apex: NVIDIA's fused kernels, on a GPU, where
    Apex was built from its source."""

    def __post_init__(self) -> None:
        check_types(self)
        require_at_least(0, "lr", self.lr)
        require(0 <= self.momentum < 1, "momentum", self.momentum, "must lie in 0 … 1, 1 excluded")
        require(
            bool(self.momentum) or not self.nesterov,
            "nesterov",
            self.nesterov,
            "looks ahead along the momentum, which is 0: give one, or turn nesterov off",
        )
        require_at_least(0, "weight_decay", self.weight_decay)

    def home(self) -> str:
        """By its implementation."""
        return {
            "own": "fastiseat.weights.optimizers.sgd:FusedSGD",
            "apex": "fastiseat.weights.optimizers.apex:ApexSGD",
        }[self.implementation]

    def writes(self) -> tuple[str, ...]:
        """The momentum, where there is any: without, it stays as it is."""
        return (MOMENTUM,) if self.momentum else ()
