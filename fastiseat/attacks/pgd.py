"""Projected gradient ascent (Madry et al., 2018): the loop that training and evaluation share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fastiseat.attacks.balls import ball_named
from fastiseat.kernels import pgd_step
from fastiseat.kernels.pgd_step import Norm


class Attacked(NamedTuple):
    """What :func:`pgd` returns."""

    delta: Tensor
    """δ after the last step."""
    x_adv: Tensor
    """x' = clamp(x + δ, 0, 1)."""
    nan_grad: Tensor
    """bool (): whether the gradient of any step held a NaN."""


def random_start(
    images: Tensor, *, eps: float | Tensor, generator: torch.Generator | None = None, norm: Norm = "linf"
) -> Tensor:
    """δ uniform in the ε-ball: shape and dtype of ``images``; ``generator`` is by default torch's own.

    In the L∞ ball each pixel is U(-ε, ε). In the L2 ball of d dimensions the direction is a normal sample's and the
    length ε·U^(1/d).
    """
    return ball_named(norm).inside(images, eps, generator)


def pgd(
    gradient: Callable[[Tensor], Tensor],
    images: Tensor,
    start: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    steps: int,
    norm: Norm = "linf",
    clip_start: bool = True,
) -> Attacked:
    """``steps`` times δ ← Π(δ + α d), Π onto the ε-ball and onto images in [0, 1]; no early stop.

    d is the step of length 1 that climbs most: sign g in the L∞ ball, g/‖g‖₂ in the L2 ball. ``gradient`` maps x'
    (m, C, H, W) to the gradient of the loss that the attack climbs. The start is clipped to images in [0, 1] too, as in
    the codes of ISEAT, Rice et al. and Wu et al., unless not ``clip_start``: then the first gradient is taken outside
    (TRADES). Nothing waits for the device.
    """
    delta, x_adv = start, images + start
    if clip_start:
        x_adv = x_adv.clamp(0, 1)
        delta = x_adv - images
    nan_grads = [torch.zeros((), dtype=torch.bool, device=images.device)]
    for _ in range(steps):
        step = pgd_step(images, delta, gradient(x_adv), eps=eps, step_size=step_size, norm=norm)
        delta, x_adv = step.delta, step.x_adv
        nan_grads.append(step.nan_grad)
    return Attacked(delta, x_adv, torch.stack(nan_grads).any())
