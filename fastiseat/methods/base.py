"""What a method is: a value that names the loss its attack climbs and the terms its update descends."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastiseat.attacks.record import Watch
from fastiseat.attacks.starts import AtImages, InBall, Noise, Start
from fastiseat.config import PGD
from fastiseat.errors import UserError
from fastiseat.fields import check_types, require
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

    default_attack: ClassVar[PGD] = PGD()
    """That of a step which is given none: its start and its BatchNorm mode are the paper's, ε and steps PGD's own."""
    start: ClassVar[Start] = AtImages()
    """Where its attack starts under settings that name no start, neither noise nor a random one."""
    watch: ClassVar[Watch | None] = None
    """What ``objective`` reads of the attack as ``Outputs.attack``."""
    views: ClassVar[int] = 1
    """How many augmentations of each image its batch holds: all of the first, then all of the second."""

    def __post_init__(self) -> None:
        """Its numbers are numbers; which, a method says itself."""
        check_types(self)
        for name, value in vars(self).items():
            if isinstance(value, float | int):
                require(abs(value) < math.inf, name, value, "must be a finite number")

    @property
    def flat_at_clean(self) -> bool:
        """Whether ``inner_loss`` has no gradient at δ = 0, from where an attack would climb what rounding left.

        A distance from the clean images' logits has none. What compares and is no such distance says False.
        """
        return self.needs_reference

    def start_under(self, attack: PGD) -> Start:
        """What ``attack`` names, or else the method's own."""
        if attack.noise:
            return Noise(attack.noise)
        return InBall() if attack.random_start else self.start

    def require_start(self, attack: PGD) -> None:
        """:class:`UserError` where ``attack`` would begin at δ = 0 although the loss is flat there."""
        begins = attack.random_start or attack.noise
        if self.attacked and self.flat_at_clean and attack.eps and not begins:
            raise UserError(
                f"the attack starts at δ = 0, where the loss that {type(self).__name__} attacks has no gradient: give "
                "it a start, noise 0.001 as TRADES has it (PGD(noise=0.001), --noise 0.001), or random_start"
            )

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
