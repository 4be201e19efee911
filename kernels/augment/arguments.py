"""What ``augment`` takes."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from fastiseat.errors import UserError, unknown
from fastiseat.kernels.core.checks import check_numbers, check_result, check_tensors, host_may_look

PadMode = Literal["zero", "reflect"]


@dataclass(frozen=True, slots=True)
class Arguments:
    """What :func:`augment` takes.

    Args:
        images: uint8 (m, H, W, C); with ``rows`` any number of images.
        index: int64 (m,), each sample's place in the data set, on the device of ``images``.
        rows: int64 (m,), which of ``images`` each sample is, on their device; without it sample i is image i. One
            that names no image is an error on a CPU, where nothing records the call; on a CUDA device it gives NaN,
            or the reference's assertion.
        seed: 0 … 2**64 - 1.
        epoch: 0 … 2**32 - 1; as an integer tensor, 0-dimensional and on the device of ``images``, it is not
            looked at, and its low 32 bits count.
        flip: whether to mirror at all.
        pad: pixels added on each side; 0 for no crop.
        pad_mode: ``"zero"`` for black, or ``"reflect"`` for the image mirrored at its outermost pixels, which
            are not repeated (``pad`` below H and W).
        dtype: float32, float64, bfloat16 or float16.
        memory_format: ``torch.channels_last`` or ``torch.contiguous_format``.
    """

    images: Tensor
    index: Tensor
    _: KW_ONLY
    rows: Tensor | None = None
    seed: int
    epoch: int | Tensor
    flip: bool = True
    pad: int = 4
    pad_mode: PadMode = "zero"
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.channels_last


def check(call: Arguments) -> None:
    """Raise UserError for an argument that is not as described."""
    check_tensors(call.images, call.index, call.epoch, call.rows)
    check_numbers(call.seed, call.epoch)
    _check_rows(call.images, call.rows)
    check_padding(tuple(call.images.shape[1:]), call.pad, call.pad_mode)
    check_result(call.dtype, call.memory_format)


def _check_rows(images: Tensor, rows: Tensor | None) -> None:
    if rows is None or not host_may_look(rows) or not len(rows):
        return
    lowest, highest = (end.item() for end in rows.aminmax())
    if lowest < 0 or highest >= len(images):
        raise UserError(f"rows lie in {lowest} … {highest}; those of images are 0 … {len(images) - 1}")


def check_padding(shape: tuple[int, ...], pad: int, pad_mode: str) -> None:
    """Raise UserError where images of ``shape`` (H, W, C) can't be padded so."""
    if pad_mode not in get_args(PadMode):
        raise unknown("pad_mode", pad_mode, get_args(PadMode))
    if pad < 0:
        raise UserError(f"pad={pad} must not be negative; 0 turns the crop off")
    height, width, _ = shape
    smaller = min(height, width)
    if pad_mode == "reflect" and 0 < smaller <= pad:
        raise UserError(
            f"pad={pad}: images of {height}×{width} pixels reflect at most {smaller - 1}; "
            'take a smaller pad, or pad_mode="zero"'
        )
