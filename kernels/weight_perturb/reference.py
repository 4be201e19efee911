"""The definition of ``weight_perturb``: any floating dtype, any device, nothing read by the host."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.errors import unknown
from fastiseat.kernels.core.flat import blocks, of_blocks, parts, scalar
from fastiseat.kernels.core.segments import BLOCK
from fastiseat.kernels.weight_perturb.arguments import Arguments

TINY = 1e-20
"""The released code's guard against a zero gradient."""


@torch.no_grad()
def weight_perturb(call: Arguments) -> Tensor:
    """``fastiseat.kernels.weight_perturb`` in plain PyTorch."""
    weights, (block_segment, _, perturbed) = call.weights, call.segments
    weight_norm, grad_norm = _norms(call)
    ratio: Tensor = scalar(call.gamma, weights).double() * weight_norm / (grad_norm + TINY)
    ratio = ratio.where(perturbed, 0.0).to(weights.dtype)
    start = 0
    for target in (call.out,) if call.out_full is None else (call.out, call.out_full):
        for rows in parts(target):
            source = slice(start + rows.start, start + rows.stop)
            theta, g = blocks(weights)[source], blocks(call.grad)[source]
            blocks(target)[rows] = perturbed_weights(theta, g, ratio, block_segment[source], perturbed)
        start += len(target) // BLOCK
    return ratio


def _norms(call: Arguments) -> Tensor:
    """Of θ and g, float64 (2, S), or (2, 1) of all that are perturbed together."""
    squares = torch.stack([_squares(buffer, call.segments.first_block) for buffer in (call.weights, call.grad)])
    match call.norm:
        case "tensor":
            return squares.sqrt()
        case "global":
            return squares.where(call.segments.perturbed, 0.0).sum(1, keepdim=True).sqrt()
        case other:
            raise unknown("norm", other, ("tensor", "global"))


def perturbed_weights(
    weights: Tensor, grad: Tensor, ratio: Tensor, block_segment: Tensor, perturbed: Tensor
) -> Tensor:
    """θ + ratio·g in the dtype of θ for blocks (b, 1024) of both; θ itself where a segment is not perturbed."""
    moved = weights + of_blocks(ratio, block_segment) * grad.to(weights.dtype)
    return moved.where(of_blocks(perturbed, block_segment), weights)


def _squares(buffer: Tensor, first_block: Tensor) -> Tensor:
    """The sum of squares of each segment, float64 (S,): of the blocks first, then in their order."""
    norms = [torch.linalg.vector_norm(blocks(buffer)[rows], dim=1, dtype=torch.float64) for rows in parts(buffer)]
    of_block = torch.cat(norms).square()
    return torch.segment_reduce(of_block, "sum", offsets=first_block.long(), initial=0, unsafe=True)
