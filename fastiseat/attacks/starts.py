"""Where an attack starts. A start more is a class more here, or in the file of the method that has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from fastiseat.attacks.balls.base import Ball


class Start(Protocol):
    """The first δ of a batch."""

    @property
    def clipped(self) -> bool:
        """Whether x + δ is brought into [0, 1] before the first gradient, and stands for the clean images: their logits
        are then those of the attack's first pass. Otherwise x itself has a pass of its own.
        """

    @property
    def moves(self) -> bool:
        """Whether δ is anything but 0."""

    def __call__(self, images: Tensor, *, ball: Ball, eps: float | Tensor) -> Tensor:
        """δ, of shape and dtype of ``images`` (m, C, H, W), by torch's own generator."""


@dataclass(frozen=True)
class AtImages:
    """δ = 0 (the released code of ISEAT)."""

    clipped: ClassVar[bool] = True
    moves: ClassVar[bool] = False

    def __call__(self, images: Tensor, *, ball: Ball, eps: float | Tensor) -> Tensor:
        """See :class:`Start`."""
        return torch.zeros_like(images)


@dataclass(frozen=True)
class InBall:
    """δ uniform in the ball (Madry et al., 2018)."""

    clipped: ClassVar[bool] = True
    moves: ClassVar[bool] = True

    def __call__(self, images: Tensor, *, ball: Ball, eps: float | Tensor) -> Tensor:
        """See :class:`Start`."""
        return ball.inside(images, eps, None)


@dataclass(frozen=True)
class Noise:
    """δ normal, of this standard deviation and not clipped (TRADES, Zhang et al., 2019)."""

    size: float
    clipped: ClassVar[bool] = False
    moves: ClassVar[bool] = True

    def __call__(self, images: Tensor, *, ball: Ball, eps: float | Tensor) -> Tensor:
        """See :class:`Start`."""
        return self.size * torch.randn_like(images)
