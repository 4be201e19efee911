"""``weight_perturb`` in Triton: a pass for the norms, one for the sum, and a program a segment between them."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastiseat.kernels.core.flat import split_number
from fastiseat.kernels.core.segments import BLOCK
from fastiseat.kernels.weight_perturb.arguments import Arguments

_CHUNK = 1024
# Four elements a thread, of every dtype: with more, half precision and float32 would lie with different threads.
_NUM_WARPS = 8


@triton.jit
def _square_sum(values):
    """In float32, and in float64 where that lost squares below or above its range; many cards are slow at it."""
    total = tl.sum(values * values, axis=0)
    exact = total.to(tl.float64)
    in_range = (total > 1e-33) & (total < 3e38)
    if not in_range:
        wide = values.to(tl.float64)
        exact = tl.sum(wide * wide, axis=0)
    return exact


@triton.jit
def _sum_blocks(weights, grad, sums, BLOCK: tl.constexpr):
    block = tl.program_id(0).to(tl.int64)
    place = block * BLOCK + tl.arange(0, BLOCK)
    tl.store(sums + 2 * block, _square_sum(tl.load(weights + place)))
    tl.store(sums + 2 * block + 1, _square_sum(tl.load(grad + place).to(tl.float32)))


@triton.jit
def _ratio_of(gamma, weight_squares, grad_squares):
    factor = tl.full((), gamma, tl.float32).to(tl.float64)
    tiny = tl.full((), 1e-20, tl.float64)
    return (factor * tl.sqrt(weight_squares) / (tl.sqrt(grad_squares) + tiny)).to(tl.float32)


@triton.jit
def _make_ratios(sums, first_block, perturbed, gamma, gamma_tensor, segment_sums, ratio, CHUNK: tl.constexpr):
    segment = tl.program_id(0)
    begin = tl.load(first_block + segment).to(tl.int64)
    end = tl.load(first_block + segment + 1).to(tl.int64)
    lanes = tl.arange(0, CHUNK)
    weight_sum = tl.zeros((CHUNK,), dtype=tl.float64)
    grad_sum = tl.zeros((CHUNK,), dtype=tl.float64)
    for start in range(begin, end, CHUNK):
        block = start + lanes
        weight_sum += tl.load(sums + 2 * block, mask=block < end, other=0.0)
        grad_sum += tl.load(sums + 2 * block + 1, mask=block < end, other=0.0)
    weight_squares = tl.sum(weight_sum, axis=0)
    grad_squares = tl.sum(grad_sum, axis=0)
    tl.store(segment_sums + 2 * segment, weight_squares)
    tl.store(segment_sums + 2 * segment + 1, grad_squares)
    if gamma_tensor is not None:
        gamma = tl.load(gamma_tensor)
    found = _ratio_of(gamma, weight_squares, grad_squares)
    tl.store(ratio + segment, tl.where(tl.load(perturbed + segment) != 0, found, 0.0))


@triton.jit
def _make_global_ratio(segment_sums, perturbed, num_segments, gamma, gamma_tensor, ratio, CHUNK: tl.constexpr):
    lanes = tl.arange(0, CHUNK)
    weight_sum = tl.zeros((CHUNK,), dtype=tl.float64)
    grad_sum = tl.zeros((CHUNK,), dtype=tl.float64)
    for start in range(0, num_segments, CHUNK):
        segment = start + lanes
        moves = tl.load(perturbed + segment, mask=segment < num_segments, other=0) != 0
        weight_sum += tl.load(segment_sums + 2 * segment, mask=moves, other=0.0)
        grad_sum += tl.load(segment_sums + 2 * segment + 1, mask=moves, other=0.0)
    if gamma_tensor is not None:
        gamma = tl.load(gamma_tensor)
    found = _ratio_of(gamma, tl.sum(weight_sum, axis=0), tl.sum(grad_sum, axis=0))
    for start in range(0, num_segments, CHUNK):
        segment = start + lanes
        moves = tl.load(perturbed + segment, mask=segment < num_segments, other=0) != 0
        tl.store(ratio + segment, tl.where(moves, found, 0.0), mask=segment < num_segments)


@triton.jit
def _write(weights, grad, block_segment, perturbed, ratio, out, out_blocks, out_full, BLOCK: tl.constexpr):
    block = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    segment = tl.load(block_segment + block)
    theta = tl.load(weights + block * BLOCK + lanes)
    moved = theta
    if tl.load(perturbed + segment) != 0:
        moved = theta + tl.load(ratio + segment) * tl.load(grad + block * BLOCK + lanes).to(tl.float32)
    if block < out_blocks:
        tl.store(out + block * BLOCK + lanes, moved.to(out.dtype.element_ty))
    elif out_full is not None:
        tl.store(out_full + (block - out_blocks) * BLOCK + lanes, moved)


def weight_perturb(call: Arguments) -> Tensor:
    """``fastiseat.kernels.weight_perturb`` for the calls that ``native.unfit`` lets pass."""
    weights, segments = call.weights, call.segments
    num_blocks, moves = len(segments.block_segment), segments.perturbed.view(torch.uint8)
    ratio = torch.empty(len(moves), dtype=weights.dtype, device=weights.device)
    if len(moves):
        _launch_norms(call, moves, ratio)
    if num_blocks:
        _write[(num_blocks,)](
            weights,
            call.grad,
            segments.block_segment,
            moves,
            ratio,
            call.out,
            len(call.out) // BLOCK,
            call.out_full,
            BLOCK=BLOCK,
            num_warps=_NUM_WARPS,
            enable_fp_fusion=False,
        )
    return ratio


def _launch_norms(call: Arguments, moves: Tensor, ratio: Tensor) -> None:
    num_blocks, num_segments, gamma = len(call.weights) // BLOCK, len(moves), split_number(call.gamma)
    sums = torch.empty(2 * (num_blocks + num_segments), dtype=torch.float64, device=moves.device)
    of_segments = sums[2 * num_blocks :]
    if num_blocks:
        _sum_blocks[(num_blocks,)](call.weights, call.grad, sums, BLOCK=BLOCK)
    first_block = call.segments.first_block
    _make_ratios[(num_segments,)](sums, first_block, moves, *gamma, of_segments, ratio, CHUNK=_CHUNK)
    match call.norm:
        case "tensor":
            return
        case "global":
            _make_global_ratio[(1,)](of_segments, moves, num_segments, *gamma, ratio, CHUNK=_CHUNK)
        case other:
            raise ValueError(f"there is no kernel for norm {other!r}")
