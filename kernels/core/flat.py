"""What the ops on flat buffers share: their checks, and numbers and segments in the form that each backend reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.kernels.core import native
from fastiseat.kernels.core.segments import BLOCK, Segments

Number = float | Tensor

_FULL = (torch.float32, torch.float64)
# What one access of a kernel on a device reads.
_ALIGNMENT = 16
_BLOCKS_AT_A_TIME = 512


def check_weights(weights: Tensor, segments: Segments) -> None:
    """Raise UserError unless ``weights`` are a flat buffer that ``segments`` describes."""
    if weights.dtype not in _FULL:
        raise UserError(f"weights are {weights.dtype}; float32 or float64 is needed")
    _check_flat("weights", weights, segments.num_elements, weights.device)
    for name, table in segments._asdict().items():
        if table.device != weights.device:
            raise UserError(
                f"segments.{name} lies on {table.device}, weights on {weights.device}; move one of them"
            )


def check_like(weights: Tensor, buffers: Mapping[str, Tensor | None], *, dtype: torch.dtype | None = None) -> None:
    """Raise UserError for a buffer that has not the length and device of ``weights``, or another ``dtype``."""
    for name, buffer in buffers.items():
        if buffer is None:
            continue
        _check_flat(name, buffer, len(weights), weights.device)
        if not buffer.is_floating_point() or (dtype is not None and buffer.dtype != dtype):
            raise UserError(f"{name} is {buffer.dtype}; {dtype or 'a floating dtype'} is needed")


def check_per_segment(name: str, table: Tensor | None, dtype: torch.dtype, segments: Segments) -> None:
    """Raise UserError unless ``table`` has one value of ``dtype`` for each segment."""
    shape = segments.perturbed.shape
    if table is not None and (table.dtype != dtype or table.shape != shape or not table.is_contiguous()):
        raise UserError(
            f"{name} is {table.dtype} of shape {tuple(table.shape)}; contiguous {dtype} of shape {tuple(shape)} is "
            "needed, one value a segment"
        )
    check_device(name, table, segments.perturbed.device)


def check_numbers(device: torch.device, numbers: Mapping[str, Number]) -> None:
    """Raise UserError for a tensor that is no single number on ``device``."""
    for name, value in numbers.items():
        if isinstance(value, Tensor):
            if value.numel() != 1 or not value.is_floating_point():
                raise UserError(
                    f"{name} is {value.dtype} of shape {tuple(value.shape)}; give a float, or a tensor of one"
                )
            check_device(name, value, device)


def check_device(name: str, tensor: Tensor | None, device: torch.device) -> None:
    """Raise UserError for a tensor elsewhere."""
    if tensor is not None and tensor.device != device:
        raise UserError(f"{name} lies on {tensor.device}, weights on {device}; move one of them")


def check_apart(written: Mapping[str, Tensor | None], read: Mapping[str, Tensor | None]) -> None:
    """Raise UserError where a buffer that is written begins where another one does."""
    if torch.compiler.is_compiling():  # there are no addresses yet
        return
    seen: dict[int, str] = {}
    for name, buffer in {**read, **written}.items():
        if buffer is None or buffer.numel() == 0:
            continue
        other = seen.setdefault(buffer.data_ptr(), name)
        if other != name and name in written:
            raise UserError(f"{name} is the memory of {other}; give {name} a buffer of its own")


def _check_flat(name: str, buffer: Tensor, length: int, device: torch.device) -> None:
    if buffer.dim() != 1 or len(buffer) != length or not buffer.is_contiguous():
        raise UserError(
            f"{name} is of shape {tuple(buffer.shape)}; a contiguous buffer of ({length},) is needed, as the "
            "segments describe it"
        )
    check_device(name, buffer, device)


def scalar(value: Number, like: Tensor) -> Tensor:
    """A number as a tensor () of the dtype and device of ``like``; read by no host."""
    if isinstance(value, Tensor):
        return value.detach().to(like.dtype).reshape(())
    return torch.full((), value, dtype=like.dtype, device=like.device)


def split_number(value: Number) -> tuple[float, Tensor | None]:
    """A number as kernels take it: a value, and a float32 tensor on the device that counts where there is one."""
    if isinstance(value, Tensor):
        return 0.0, value.detach().to(torch.float32)
    return float(value), None


def of_blocks(table: Tensor, block_segment: Tensor) -> Tensor:
    """The value of each block's segment, (B, 1): it meets buffers that are viewed as :func:`blocks`."""
    return table[block_segment.long()][:, None]


def blocks(buffer: Tensor) -> Tensor:
    """A flat buffer as (B, 1024)."""
    return buffer.view(-1, BLOCK)


def parts(buffer: Tensor) -> Iterator[slice]:
    """The rows of a flat buffer's :func:`blocks`, some at a time.

    What the references compute of a part stays in the cache, where all at once would be fresh memory each time.
    """
    num_blocks = len(buffer) // BLOCK
    for start in range(0, num_blocks, _BLOCKS_AT_A_TIME):
        yield slice(start, min(start + _BLOCKS_AT_A_TIME, num_blocks))


def unfit(*buffers: Tensor | None) -> str:
    """Why no kernel can read these flat buffers; empty when one can."""
    for buffer in buffers:
        if buffer is None:
            continue
        if buffer.dtype not in native.DTYPES:
            return f"a buffer is {buffer.dtype}"
        if buffer.is_cuda and buffer.data_ptr() % _ALIGNMENT:
            return f"a buffer does not begin at a multiple of {_ALIGNMENT} bytes"
    return ""
