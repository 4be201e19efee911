"""What a method is: a value that names the loss its attack climbs and the terms its update descends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastiseat.methods.outputs import Outputs


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A method never steps, zeroes gradients or toggles modes: the engine does, the same way for all.

    Weight perturbation is not a method; it wraps any of them.
    """

    attacked: ClassVar[bool] = True
    """Whether the update sees adversarial images."""
    needs_clean: ClassVar[bool] = False
    """Whether ``objective`` reads ``Outputs.clean``."""
    needs_reference: ClassVar[bool] = False
    """Whether ``inner_loss`` takes the logits of the clean images, computed once before the attack in its mode."""

    views: ClassVar[int] = 1
    """How many augmentations of each image its batch holds: all of the first, then all of the second."""

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Those that it holds beside the one in training, asked by ``Outputs.frozen`` and never changed."""
        return ()

    def reduced(self) -> Method:
        """What it comes to where one of its numbers is 0: a method that takes fewer passes, or itself."""
        return self

    def at_progress(self, fraction: float) -> Method:
        """What it is when ``fraction`` of the run, 0 … 1, is over: of a method in stages another one, else itself."""
        return self

    def inner_loss(self, logits: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
        """What the attack climbs: logits (m, C), labels (m,) and perhaps clean logits (m, C) to a scalar.

        The sum over the batch, whose gradient has the sign of the mean's and does not shrink with m.
        """
        return F.cross_entropy(logits, labels, reduction="sum")

    @abstractmethod
    def objective(self, at: Outputs, labels: Tensor) -> dict[str, Tensor]:
        """The terms by name, scalars whose sum the update descends."""

    def perturbation_loss(self, at: Outputs, labels: Tensor) -> Tensor:
        """What the weight perturbation climbs, at θ: a scalar, by default the cross entropy at x'."""
        return F.cross_entropy(at.adversarial(), labels)

    def whole_objective(self, at: Outputs, labels: Tensor) -> Tensor:
        """The sum of the terms: what the perturbation climbs for some methods."""
        return torch.stack(list(self.objective(at, labels).values())).sum()
