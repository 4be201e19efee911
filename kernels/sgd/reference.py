"""The definition of ``sgd``: any floating dtype, any device, nothing read by the host."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.kernels.core.flat import Number, blocks, of_blocks, parts, scalar
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
    nesterov: bool,
) -> None:
    """``fastiseat.kernels.sgd`` in plain PyTorch."""
    numbers = {
        "lr": scalar(lr, weights),
        "momentum": scalar(momentum, weights),
        "weight_decay": scalar(weight_decay, weights),
        "ema_decay": scalar(ema_decay, weights),
    }
    for rows in parts(weights):

        def part(buffer: Tensor | None, rows: slice = rows) -> Tensor | None:
            return None if buffer is None else blocks(buffer)[rows]

        theta, table = blocks(weights)[rows], block_segment[rows]
        decayed = theta
        if perturbation_grad is not None and ratio is not None:
            decayed = perturbed_weights(theta, blocks(perturbation_grad)[rows], ratio, table, perturbed)
        _update(
            theta,
            blocks(grad)[rows],
            part(second_grad),
            decayed,
            part(momentum_buffer),
            part(ema),
            moves=_moves(table, active, skip),
            nesterov=nesterov,
            **numbers,
        )


def _update(
    weights: Tensor,
    grad: Tensor,
    second_grad: Tensor | None,
    decayed: Tensor,
    momentum_buffer: Tensor | None,
    ema: Tensor | None,
    *,
    lr: Tensor,
    momentum: Tensor,
    weight_decay: Tensor,
    ema_decay: Tensor,
    moves: Tensor | None,
    nesterov: bool,
) -> None:
    g = grad.to(weights.dtype)
    if second_grad is not None:
        g = g + second_grad.to(weights.dtype)
    step = g + weight_decay * decayed
    if momentum_buffer is not None:
        buffer = momentum * momentum_buffer + step
        step = momentum * buffer + step if nesterov else buffer
        _write(momentum_buffer, buffer, moves)
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
