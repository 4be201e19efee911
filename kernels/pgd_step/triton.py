"""``pgd_step`` in one launch: a program for each block of elements, in the L2 ball one for each sample."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastiseat.kernels.pgd_step.arguments import Arguments
from fastiseat.kernels.pgd_step.arrays import Arrays, arrange

BLOCK = 1024
NUM_WARPS = 8
"""Four elements a thread, of every dtype: with more, half precision and float32 would lie with different threads."""


@triton.jit
def number(value, tensor, row, KIND: tl.constexpr):
    """A number: 0 given as such, 1 in a tensor, 2 in a tensor of one a row."""
    if KIND == 0:
        found = tl.cast(value, tl.float32)
    elif KIND == 1:
        found = tl.load(tensor).to(tl.float32)
    else:
        tl.static_assert(KIND == 2, "a choice that it does not serve")
        found = tl.load(tensor + row).to(tl.float32)
    return found


@triton.jit
def place(i, inner, outer, TURNED: tl.constexpr):
    """Where an array has element ``i`` of a row; only rows of less than 2^31 elements are turned."""
    if TURNED:
        small = i.to(tl.int32)
        at = (small % inner) * outer + small // inner
    else:
        at = i
    return at


@triton.jit
def clamp(value, low, high):
    """A comparison with NaN is false, so a NaN value passes through, as it does through PyTorch's clamp."""
    value = tl.where(low > value, low, value)
    return tl.where(high < value, high, value)


@triton.jit
def write(images, moved, delta_out, x_adv_out, i, inside):
    """x' and δ of the elements ``i``."""
    image = tl.load(images + i, mask=inside)
    x_adv = clamp(image + moved, 0.0, 1.0)
    tl.store(x_adv_out + i, x_adv, mask=inside)
    tl.store(delta_out + i, x_adv - image, mask=inside)


@triton.jit
def pgd_step_linf(
    images, delta, grad, eps, eps_tensor, step_size, step_size_tensor, delta_out, x_adv_out, nan_grad,
    row_size, blocks_per_row, inner, outer,
    EPS: tl.constexpr, STEP_SIZE: tl.constexpr, GRAD_TURNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of a row; where one number serves for all samples, the whole batch is one row."""
    row = (tl.program_id(0) // blocks_per_row).to(tl.int64)
    i = (tl.program_id(0) % blocks_per_row).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside, start = i < row_size, row * row_size
    radius = number(eps, eps_tensor, row, EPS)
    # A NaN bound would be lost in the comparisons of clamp; as the step it reaches every element.
    step = tl.where(radius == radius, number(step_size, step_size_tensor, row, STEP_SIZE), radius)
    g = tl.load(grad + start + place(i, inner, outer, GRAD_TURNED), mask=inside, other=0.0).to(tl.float32)
    sign = tl.where(g > 0.0, 1.0, 0.0) - tl.where(g < 0.0, 1.0, 0.0)
    moved = clamp(tl.load(delta + start + i, mask=inside, other=0.0) + step * sign, -radius, radius)
    write(images, moved, delta_out, x_adv_out, start + i, inside)
    # All that store here store the same, and mostly none does.
    tl.store(nan_grad + tl.zeros_like(i), tl.full((BLOCK,), 1, tl.uint8), mask=g != g)


@triton.jit
def pgd_step_l2(
    images, delta, grad, eps, eps_tensor, step_size, step_size_tensor, delta_out, x_adv_out, nan_grad,
    row_size, inner, outer,
    EPS: tl.constexpr, STEP_SIZE: tl.constexpr, GRAD_TURNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A sample, in three passes; what the first reads the later two find in a cache."""
    row = tl.program_id(0).to(tl.int64)
    start = row * row_size
    lane = tl.arange(0, BLOCK)
    squares = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, row_size, BLOCK):
        i = first + lane
        at = start + place(i, inner, outer, GRAD_TURNED)
        g = tl.load(grad + at, mask=i < row_size, other=0.0).to(tl.float32).to(tl.float64)
        tl.store(nan_grad + tl.zeros_like(i), tl.full((BLOCK,), 1, tl.uint8), mask=g != g)
        squares += g * g
    norm = tl.sqrt(tl.sum(squares, axis=0))
    usable = (norm > 0.0) & (norm < float("inf"))
    along = number(step_size, step_size_tensor, row, STEP_SIZE).to(tl.float64) / tl.where(usable, norm, 1.0)
    squares = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, row_size, BLOCK):
        i = first + lane
        at = start + place(i, inner, outer, GRAD_TURNED)
        g = tl.load(grad + at, mask=i < row_size, other=0.0).to(tl.float32).to(tl.float64)
        d = tl.load(delta + start + i, mask=i < row_size, other=0.0).to(tl.float64)
        moved = d + along * tl.where(usable, g, 0.0)
        # Beyond the row g is 0; but an infinite step times 0 is NaN.
        squares += tl.where(i < row_size, moved * moved, 0.0)
    length = tl.sqrt(tl.sum(squares, axis=0))
    radius = number(eps, eps_tensor, row, EPS).to(tl.float64)
    shrink = tl.where(length <= radius, 1.0, radius / length)
    for first in range(0, row_size, BLOCK):
        i = first + lane
        at = start + place(i, inner, outer, GRAD_TURNED)
        g = tl.load(grad + at, mask=i < row_size, other=0.0).to(tl.float32).to(tl.float64)
        d = tl.load(delta + start + i, mask=i < row_size, other=0.0).to(tl.float64)
        moved = (shrink * (d + along * tl.where(usable, g, 0.0))).to(tl.float32)
        write(images, moved, delta_out, x_adv_out, start + i, i < row_size)


def pgd_step(call: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """``fastiseat.kernels.pgd_step`` for the calls that ``unfit`` lets pass."""
    found = arrange(call)
    if call.images.numel():
        with torch.cuda.device_of(call.images):
            _launch(call, found)
    return found.results


def _launch(call: Arguments, found: Arrays) -> None:
    numbers = (_number(call.eps, call.images), _number(call.step_size, call.images))
    pointers = (
        *(call.images, found.delta, found.grad, *numbers[0][:2], *numbers[1][:2], found.delta_out, found.x_adv),
        found.nan_grad.view(torch.uint8),
    )
    sizes = (found.inner, found.sample_size // found.inner)
    constants: dict[str, Any] = {
        "EPS": numbers[0][2],
        "STEP_SIZE": numbers[1][2],
        "GRAD_TURNED": found.grad_turned,
        "BLOCK": BLOCK,
        "num_warps": NUM_WARPS,
        "enable_fp_fusion": False,
    }
    match call.norm:
        case "linf":
            each = 2 in (numbers[0][2], numbers[1][2]) or found.grad_turned
            rows = found.num_samples if each else 1
            row_size = call.images.numel() // rows
            blocks = triton.cdiv(row_size, BLOCK)
            pgd_step_linf[(rows * blocks,)](*pointers, row_size, blocks, *sizes, **constants)
        case "l2":
            pgd_step_l2[(found.num_samples,)](*pointers, found.sample_size, *sizes, **constants)
        case other:
            raise ValueError(f"there is no kernel for norm {other!r}")


def _number(value: float | Tensor, unused: Tensor) -> tuple[float, Tensor, int]:
    """The arguments of :func:`number`; the pointer of a plain number is any, and not looked at."""
    if not isinstance(value, Tensor):
        return float(value), unused, 0
    return 0.0, value.contiguous(), 1 if value.numel() == 1 else 2
