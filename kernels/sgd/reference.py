"""The definition of ``sgd``: any floating dtype, any device, nothing read by the host."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.kernels.flat import Number, blocks, of_blocks, parts, scalar
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
    numbers = [scalar(value, weights) for value in (lr, momentum, weight_decay, ema_decay)]
    buffers = (weights, momentum_buffer, grad, second_grad, perturbation_grad, ema)
    for rows in parts(weights):
        part = [None if buffer is None else blocks(buffer)[rows] for buffer in buffers]
        _update(*part, block_segment[rows], perturbed, ratio, _moves(block_segment[rows], active, skip), *numbers)


def _update(
    weights: Tensor,
    momentum_buffer: Tensor | None,
    grad: Tensor,
    second_grad: Tensor | None,
    perturbation_grad: Tensor | None,
    ema: Tensor | None,
    block_segment: Tensor,
    perturbed: Tensor,
    ratio: Tensor | None,
    moves: Tensor | None,
    lr: Tensor,
    momentum: Tensor,
    weight_decay: Tensor,
    ema_decay: Tensor,
) -> None:
    g, decayed = grad.to(weights.dtype), weights
    if second_grad is not None:
        g = g + second_grad.to(weights.dtype)
    if perturbation_grad is not None and ratio is not None:
        decayed = perturbed_weights(weights, perturbation_grad, ratio, block_segment, perturbed)
    step = g + weight_decay * decayed
    if momentum_buffer is not None:
        step = momentum * momentum_buffer + step
        _write(momentum_buffer, step, moves)
    theta = weights - lr * step
    if ema is not None:
        _write(ema, ema_decay * ema + (1 - ema_decay) * theta, moves)
    _write(weights, theta, moves)


def _moves(block_segment: Tensor, active: Tensor | None, skip: Tensor | None) -> Tensor | None:
    """Which blocks are updated, (B, 1); None for all."""
    moves = None if active is None else of_blocks(active, block_segment)
    if skip is None:
        return moves
    return ~skip if moves is None else moves & ~skip


def _write(buffer: Tensor, new: Tensor, moves: Tensor | None) -> None:
    buffer.copy_(new if moves is None else new.where(moves, buffer))
