"""The definition of ``sgd``: any floating dtype, any device, nothing read by the host."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.kernels.flat import Number, blocks, of_blocks, scalar
from fastiseat.kernels.weight_perturb.reference import perturbed_weights


@torch.no_grad()
def sgd(
    weights: Tensor,
    momentum_buffer: Tensor | None,
    grad: Tensor,
    block_segment: Tensor,
    perturbed: Tensor,
    *,
    lr: Number,
    momentum: Number,
    weight_decay: Number,
    second_grad: Tensor | None,
    perturbation_grad: Tensor | None,
    ratio: Tensor | None,
    active: Tensor | None,
    skip: Tensor | None,
    ema: Tensor | None,
    ema_decay: Number,
) -> None:
    """``fastiseat.kernels.sgd`` in plain PyTorch."""
    theta = decayed = blocks(weights)
    g = blocks(grad).to(weights.dtype)
    if second_grad is not None:
        g = g + blocks(second_grad).to(weights.dtype)
    if perturbation_grad is not None and ratio is not None:
        decayed = perturbed_weights(weights, perturbation_grad, ratio, block_segment, perturbed)
    step = g + scalar(weight_decay, weights) * decayed
    moves = _moves(block_segment, active, skip)
    if momentum_buffer is not None:
        step = scalar(momentum, weights) * blocks(momentum_buffer) + step
        _write(momentum_buffer, step, moves)
    theta = theta - scalar(lr, weights) * step
    if ema is not None:
        decay = scalar(ema_decay, weights)
        _write(ema, decay * blocks(ema) + (1 - decay) * theta, moves)
    _write(weights, theta, moves)


def _moves(block_segment: Tensor, active: Tensor | None, skip: Tensor | None) -> Tensor:
    """Which blocks are updated, (B, 1)."""
    moves = torch.ones_like(block_segment, dtype=torch.bool)[:, None]
    if active is not None:
        moves = of_blocks(active, block_segment)
    return moves if skip is None else moves & ~skip


def _write(buffer: Tensor, new: Tensor, moves: Tensor) -> None:
    blocks(buffer).copy_(new.where(moves, blocks(buffer)))
