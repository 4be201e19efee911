"""The L2 ball: the Euclidean length of all pixels' changes is ε at most."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from fastiseat.attacks.balls.base import TINY
from fastiseat.attacks.draws import uniform


class L2:
    """‖δ‖₂; see :class:`~fastiseat.attacks.balls.base.Ball`."""

    per_pixel: ClassVar[bool] = False

    def length(self, delta: Tensor) -> Tensor:
        """See :class:`~fastiseat.attacks.balls.base.Ball`."""
        length: Tensor = torch.linalg.vector_norm(delta, dim=(1, 2, 3), keepdim=True)
        return length

    def steepest(self, gradient: Tensor) -> Tensor:
        """See :class:`~fastiseat.attacks.balls.base.Ball`."""
        return (gradient / (self.length(gradient) + TINY)).nan_to_num(nan=0.0)

    def project(self, images: Tensor, x: Tensor, eps: float | Tensor) -> Tensor:
        """See :class:`~fastiseat.attacks.balls.base.Ball`."""
        delta = x - images
        length = self.length(delta)
        return (images + delta / (length + TINY) * length.clamp(max=eps)).clamp_(0, 1)

    def inside(self, like: Tensor, eps: float | Tensor, generator: torch.Generator | None) -> Tensor:
        """See :class:`~fastiseat.attacks.balls.base.Ball`; a normal sample's direction, and of d pixels ε·U^(1/d)."""
        normal = torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)
        rows = normal.reshape(len(like), math.prod(like.shape[1:]))
        unit = torch.rand((len(rows), 1), dtype=like.dtype, device=like.device, generator=generator)
        share = unit ** (1 / max(rows.shape[1], 1))
        length = eps.reshape(-1, 1) * share if isinstance(eps, Tensor) else eps * share
        norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        return (rows / norms * length).reshape(like.shape)

    def border(self, words: Tensor, like: Tensor) -> Tensor:
        """See :class:`~fastiseat.attacks.balls.base.Ball`; normals by Box and Muller have no preferred direction."""
        radius, angle = uniform(words, torch.float64).chunk(2, dim=1)
        normal = (-2 * torch.log1p(-radius)).sqrt() * (2 * math.pi * angle).cos()
        return self.steepest(normal.to(like.dtype).view(like.shape))

    def words_for(self, size: int) -> int:
        """See :class:`~fastiseat.attacks.balls.base.Ball`."""
        return 2 * size
