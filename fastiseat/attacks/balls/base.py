"""What a ball is: all that training, its starts, the searches and the checks ask of the geometry they stay in."""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor

TINY = 1e-12
"""What lengths are kept from 0 by, where they divide."""


class Ball(Protocol):
    """All δ of length ε at most, around images whose pixels lie in [0, 1].

    Tensors are (m, C, H, W), lengths (m, 1, 1, 1); ε is a number, a tensor () or (m, 1, 1, 1). Nothing waits for the
    device.
    """

    per_pixel: ClassVar[bool]
    """Whether ε may be a tensor (m, C, H, W) too, as where each pixel has its own bound."""

    def length(self, delta: Tensor) -> Tensor:
        """‖δ‖ of each sample."""

    def steepest(self, gradient: Tensor) -> Tensor:
        """The step of length 1 that climbs most along ``gradient``; none where that is NaN."""

    def project(self, images: Tensor, x: Tensor, eps: float | Tensor) -> Tensor:
        """The image near ``x`` that lies within ε of ``images`` and in [0, 1]."""

    def inside(self, like: Tensor, eps: float | Tensor, generator: torch.Generator | None) -> Tensor:
        """δ uniform in the ball: shape and dtype of ``like``, drawn by ``generator``, or torch's own for None."""

    def border(self, words: Tensor, like: Tensor) -> Tensor:
        """A δ of length 1 in a random direction, from as many random words as :meth:`words_for` tells."""

    def words_for(self, size: int) -> int:
        """Words that :meth:`border` takes for ``size`` pixels."""
