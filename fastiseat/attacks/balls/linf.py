"""The L∞ ball, a cube: each pixel moves by ε at most."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fastiseat.attacks.balls.base import TINY
from fastiseat.attacks.draws import uniform


class Linf:
    """max |δ|; see :class:`~fastiseat.attacks.balls.base.Ball`."""

    per_pixel: ClassVar[bool] = True

    def length(self, delta: Tensor) -> Tensor:
        """See :class:`~fastiseat.attacks.balls.base.Ball`."""
        return delta.abs().amax(dim=(1, 2, 3), keepdim=True)

    def steepest(self, gradient: Tensor) -> Tensor:
        """See :class:`~fastiseat.attacks.balls.base.Ball`."""
        return gradient.sign()

    def project(self, images: Tensor, x: Tensor, eps: float | Tensor) -> Tensor:
        """See :class:`~fastiseat.attacks.balls.base.Ball`."""
        return torch.minimum(torch.maximum(x, images - eps), images + eps).clamp_(0, 1)

    def inside(self, like: Tensor, eps: float | Tensor, generator: torch.Generator | None) -> Tensor:
        """See :class:`~fastiseat.attacks.balls.base.Ball`; each pixel is U(-ε, ε)."""
        unit = torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=generator)
        return (2 * unit - 1) * eps

    def border(self, words: Tensor, like: Tensor) -> Tensor:
        """See :class:`~fastiseat.attacks.balls.base.Ball`; uniform in the cube, then stretched to its surface."""
        delta = (2 * uniform(words, like.dtype) - 1).view(like.shape)
        return delta / (self.length(delta) + TINY)

    def words_for(self, size: int) -> int:
        """See :class:`~fastiseat.attacks.balls.base.Ball`."""
        return size
