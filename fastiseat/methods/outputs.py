"""What an objective can see of a batch: its images, and the network's answers to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastiseat.attacks.record import AttackRecord

Forward = Callable[[Tensor], Tensor]


@torch.no_grad()
def answer(network: nn.Module, images: Tensor) -> Tensor:
    """Logits (m, classes) of a network in eval mode, without a graph."""
    logits: Tensor = network(images)
    return logits


@dataclass(kw_only=True)
class Outputs:
    """Logits of one batch, each pass made when it is first asked for; gradients flow through all of them.

    BatchNorm's running statistics are updated by these passes in their order.
    """

    x: Tensor
    """The images (m, C, H, W)."""
    x_adv: Tensor
    """x', (m, C, H, W); the images themselves for a method that does not attack."""
    perturbed: Forward
    """f(.; θ+ν): images (m, C, H, W) to logits (m, classes)."""
    unperturbed: Forward
    """f(.; θ), likewise."""
    clean: Tensor | None = None
    """f(x; θ), (m, classes), where the method's ``needs_clean`` asks for it: the attack's first pass, not another."""
    frozen: Callable[[nn.Module, Tensor], Tensor] = answer
    """One of the method's ``networks`` and images to its logits (m, classes): in eval mode, and without a graph."""

    attack: AttackRecord | None = None
    """What the method's ``watch`` has had kept of the attack."""

    def __post_init__(self) -> None:
        self._adversarial: Tensor | None = None
        self._clean_perturbed: Tensor | None = None

    def adversarial(self) -> Tensor:
        """f(x'; θ+ν), (m, classes)."""
        if self._adversarial is None:
            self._adversarial = self.perturbed(self.x_adv)
        return self._adversarial

    def clean_perturbed(self) -> Tensor:
        """f(x; θ+ν), (m, classes)."""
        if self._clean_perturbed is None:
            self._clean_perturbed = self.perturbed(self.x)
        return self._clean_perturbed

    def of_clean_images(self) -> Tensor | None:
        """Logits of x that some pass has given, for metrics; None where there was none."""
        return self.clean if self.clean is not None else self._clean_perturbed
