"""What the kernels of ``augment`` have in common: what they serve, and the form of epoch and result."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.kernels.core import triton_support
from fastiseat.kernels.core.philox import Word

_MOST = 2**30
"""Offsets within an image and its padding are 32-bit integers."""


def unsupported_images(dtype: torch.dtype) -> str:
    """Why images of a dtype are not served; empty when they are."""
    return "" if dtype == torch.uint8 else f"serves images of torch.uint8, not {dtype}"


def unfit_sizes(images: Tensor, pad: int) -> str:
    """Why images of this layout, size and padding cannot be served; empty when they can."""
    if not images.is_contiguous():
        return "images are not contiguous"
    height, width, channels = images.shape[1:]
    if max(height * width * channels, height + 2 * pad, width + 2 * pad) >= _MOST:
        return f"an image or its padding has {_MOST} values or more"
    return ""


def unsupported_by_triton(device: str, dtype: torch.dtype) -> str:
    """Why no Triton kernel serves images of a dtype on a device; empty when one does. Triton is not imported."""
    return unsupported_images(dtype) or triton_support.unsupported(device, torch.float32)


def unfit_for_triton(
    images: Tensor, index: Tensor, *, rows: Tensor | None, epoch: Word, pad: int, **_: object
) -> str:
    """Why the Triton kernel cannot serve one call; empty when it can."""
    on_device = epoch if isinstance(epoch, Tensor) else None
    return triton_support.unfit(images, index, rows, on_device) or unfit_sizes(images, pad)


def epoch_words(epoch: Word) -> tuple[int, Tensor | None]:
    """The epoch as a number, or as an int64 tensor with a number that does not count; nothing is read."""
    return (0, epoch.to(torch.int64)) if isinstance(epoch, Tensor) else (epoch, None)


def result(images: Tensor, index: Tensor, dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    """Room for the samples, one for each of ``index``."""
    height, width, channels = images.shape[1:]
    shape = (len(index), channels, height, width)
    return torch.empty(shape, dtype=dtype, device=images.device, memory_format=memory_format)
