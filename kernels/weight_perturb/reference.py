"""The definition of ``weight_perturb``: any floating dtype, any device, nothing read by the host."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.kernels.flat import Number, blocks, of_blocks, scalar

TINY = 1e-20
"""The released code's guard against a zero gradient."""


@torch.no_grad()
def weight_perturb(
    weights: Tensor,
    grad: Tensor,
    block_segment: Tensor,
    first_block: Tensor,
    perturbed: Tensor,
    *,
    gamma: Number,
    norm: str,
    out: Tensor,
    out_full: Tensor | None,
) -> Tensor:
    """``fastiseat.kernels.weight_perturb`` in plain PyTorch."""
    squares = torch.stack([_squares(buffer, first_block) for buffer in (weights, grad)])
    if norm == "global":
        squares = squares.where(perturbed, 0.0).sum(1, keepdim=True)
    weight_norm, grad_norm = squares.sqrt()
    ratio: Tensor = scalar(gamma, weights).double() * weight_norm / (grad_norm + TINY)
    ratio = ratio.where(perturbed, 0.0).to(weights.dtype)
    theta_nu = perturbed_weights(weights, grad, ratio, block_segment, perturbed).flatten()
    out.copy_(theta_nu[: len(out)])
    if out_full is not None:
        out_full.copy_(theta_nu[len(out) :])
    return ratio


def perturbed_weights(
    weights: Tensor, grad: Tensor, ratio: Tensor, block_segment: Tensor, perturbed: Tensor
) -> Tensor:
    """θ + ratio·g in the dtype of θ, as (B, 1024); θ itself where a segment is not perturbed."""
    theta = blocks(weights)
    moved = theta + of_blocks(ratio, block_segment) * blocks(grad).to(weights.dtype)
    return moved.where(of_blocks(perturbed, block_segment), theta)


def _squares(buffer: Tensor, first_block: Tensor) -> Tensor:
    """The sum of squares of each segment, float64 (S,): of the blocks first, then in their order."""
    of_block = blocks(buffer).double().square().sum(1)
    return torch.segment_reduce(of_block, "sum", offsets=first_block.long(), initial=0, unsafe=True)
