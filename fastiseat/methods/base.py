"""What a method is: a value that names the loss its attack climbs and the terms its update descends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A method never steps, zeroes gradients or toggles modes: the engine does, the same way for all.

    Weight perturbation is not a method; it wraps any of them.
    """

    attacked: ClassVar[bool] = True
    """Whether the update sees adversarial images."""

    @property
    def needs_clean(self) -> bool:
        """Whether ``objective`` takes the logits of the unattacked images, with their graph."""
        return False

    def inner_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What the attack climbs: logits (m, C), labels (m,) to a scalar.

        The sum over the batch, whose gradient has the sign of the mean's and does not shrink with m.
        """
        return F.cross_entropy(logits, labels, reduction="sum")

    @abstractmethod
    def objective(self, logits: Tensor, clean_logits: Tensor | None, labels: Tensor) -> dict[str, Tensor]:
        """The terms by name, scalars whose sum the update descends.

        ``logits`` f(x'; θ+ν) and ``clean_logits`` f(x; θ) are (m, C); the latter are None unless
        ``needs_clean``.
        """
