"""The two balls that attacks stay in: their lengths, steepest ways and projections, sample by sample.

All tensors are (m, C, H, W); lengths are (m, 1, 1, 1).
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from fastiseat.attacks.draws import uniform
from fastiseat.errors import unknown

_TINY = 1e-12


class Ball(Protocol):
    """All δ of length ε at most, around images whose pixels lie in [0, 1]."""

    def length(self, delta: Tensor) -> Tensor:
        """‖δ‖ of each sample."""

    def steepest(self, gradient: Tensor) -> Tensor:
        """The step of length 1 that climbs most along ``gradient``; none where that is NaN."""

    def project(self, images: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        """The image near ``x`` that lies within ε of ``images`` and in [0, 1]."""

    def border(self, words: Tensor, like: Tensor) -> Tensor:
        """A δ of length 1 in a random direction, from as many random words as :meth:`words_for` tells."""

    def words_for(self, size: int) -> int:
        """Words that :meth:`border` takes for ``size`` pixels."""


class Linf:
    """max |δ|."""

    def length(self, delta: Tensor) -> Tensor:
        """See :class:`Ball`."""
        return delta.abs().amax(dim=(1, 2, 3), keepdim=True)

    def steepest(self, gradient: Tensor) -> Tensor:
        """See :class:`Ball`."""
        return gradient.sign()

    def project(self, images: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        """See :class:`Ball`."""
        return torch.minimum(torch.maximum(x, images - eps), images + eps).clamp_(0, 1)

    def border(self, words: Tensor, like: Tensor) -> Tensor:
        """See :class:`Ball`; uniform in the cube, then stretched to its surface."""
        delta = (2 * uniform(words, like.dtype) - 1).view(like.shape)
        return delta / (self.length(delta) + _TINY)

    def words_for(self, size: int) -> int:
        """See :class:`Ball`."""
        return size


class L2:
    """The Euclidean length."""

    def length(self, delta: Tensor) -> Tensor:
        """See :class:`Ball`."""
        length: Tensor = torch.linalg.vector_norm(delta, dim=(1, 2, 3), keepdim=True)
        return length

    def steepest(self, gradient: Tensor) -> Tensor:
        """See :class:`Ball`."""
        return (gradient / (self.length(gradient) + _TINY)).nan_to_num(nan=0.0)

    def project(self, images: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        """See :class:`Ball`."""
        delta = x - images
        length = self.length(delta)
        return (images + delta / (length + _TINY) * torch.minimum(length, eps)).clamp_(0, 1)

    def border(self, words: Tensor, like: Tensor) -> Tensor:
        """See :class:`Ball`; normal numbers by Box and Muller have no preferred direction."""
        radius, angle = uniform(words, torch.float64).chunk(2, dim=1)
        normal = (-2 * torch.log1p(-radius)).sqrt() * (2 * math.pi * angle).cos()
        return self.steepest(normal.to(like.dtype).view(like.shape))

    def words_for(self, size: int) -> int:
        """See :class:`Ball`."""
        return 2 * size


BALLS: dict[str, Ball] = {"linf": Linf(), "l2": L2()}


def ball_named(name: str) -> Ball:
    """:class:`UserError` for an unknown one."""
    if name not in BALLS:
        raise unknown("norm", name, BALLS)
    return BALLS[name]
