"""Projected gradient ascent (Madry et al., 2018): the loop that training and evaluation share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastiseat.kernels import pgd_step


def random_start(images: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
    """δ ~ U(-ε, ε), one number a pixel: shape and dtype of ``images``, drawn on the generator's device."""
    unit = torch.rand(images.shape, dtype=images.dtype, device=images.device, generator=generator)
    return (2 * unit - 1) * eps


def pgd(
    gradient: Callable[[Tensor], Tensor],
    images: Tensor,
    start: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """``steps`` times δ ← Π(δ + α sign g), Π onto the ε-ball and onto images in [0, 1]; no early stop.

    ``gradient`` maps x' (m, C, H, W) to the gradient of the loss that the attack climbs. Returns (δ, x').
    """
    delta, adversarial = start, (images + start).clamp(0, 1)
    for _ in range(steps):
        delta, adversarial = pgd_step(images, delta, gradient(adversarial), eps=eps, step_size=step_size)
    return delta, adversarial
