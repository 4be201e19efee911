"""The definition of ``sgd``: any floating dtype, any device, nothing read by the host."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.kernels.core.flat import blocks, of_blocks, parts, scalar
from fastiseat.kernels.sgd.arguments import Arguments
from fastiseat.kernels.weight_perturb.reference import perturbed_weights


@torch.no_grad()
def sgd(call: Arguments) -> None:
    """``fastiseat.kernels.sgd`` in plain PyTorch."""
    numbers = (call.lr, call.momentum, call.weight_decay, call.ema_decay)
    lr, momentum, weight_decay, ema_decay = (scalar(number, call.weights) for number in numbers)
    for rows in parts(call.weights):
        theta = blocks(call.weights)[rows]
        moves = _moves(call.segments.block_segment[rows], call.active, call.skip)
        step = _gradient(call, rows) + weight_decay * _decayed(call, rows)
        if call.momentum_buffer is not None:
            old = blocks(call.momentum_buffer)[rows]
            new = momentum * old + step
            step = momentum * new + step if call.nesterov else new
            _write(old, new, moves)
        moved = theta - lr * step
        if call.ema is not None:
            average = blocks(call.ema)[rows]
            _write(average, ema_decay * average + (1 - ema_decay) * moved, moves)
        _write(theta, moved, moves)


def _gradient(call: Arguments, rows: slice) -> Tensor:
    g = blocks(call.grad)[rows].to(call.weights.dtype)
    return g if call.second_grad is None else g + blocks(call.second_grad)[rows].to(g.dtype)


def _decayed(call: Arguments, rows: slice) -> Tensor:
    """θ+ν, which the weight decay pulls at."""
    theta, segments = blocks(call.weights)[rows], call.segments
    if call.perturbation_grad is None or call.ratio is None:
        return theta
    grad, table = blocks(call.perturbation_grad)[rows], segments.block_segment[rows]
    return perturbed_weights(theta, grad, call.ratio, table, segments.perturbed)


def _moves(block_segment: Tensor, active: Tensor | None, skip: Tensor | None) -> Tensor | None:
    """Which blocks are updated, (B, 1); None for all."""
    moves = None if active is None else of_blocks(active, block_segment)
    if skip is None:
        return moves
    return ~skip if moves is None else moves & ~skip


def _write(buffer: Tensor, new: Tensor, moves: Tensor | None) -> None:
    buffer.copy_(new if moves is None else new.where(moves, buffer))
