"""What the kernels of ``augment`` have in common: what they serve, and the form of epoch and result."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.kernels.augment.arguments import Arguments
from fastiseat.kernels.core import triton_support
from fastiseat.kernels.core.fit import unreadable, unserved
from fastiseat.kernels.core.philox import Word

PAD_MODES = {"zero": 0, "reflect": 1}
"""The paddings that the kernels have, by the codes of ``csrc/augment.h``."""
LAYOUTS = {torch.contiguous_format: 0, torch.channels_last: 1}
"""Likewise the memory formats of the result."""
_MOST = 2**30
"""Offsets within an image and its padding are 32-bit integers."""


def unsupported_images(dtype: torch.dtype) -> str:
    """Why images of a dtype are not served; empty when they are."""
    return "" if dtype == torch.uint8 else f"serves images of torch.uint8, not {dtype}"


def unsupported_by_triton(device: str, dtype: torch.dtype) -> str:
    """Why no Triton kernel serves images of a dtype on a device; empty when one does. Triton is not imported."""
    return unsupported_images(dtype) or triton_support.unsupported(device, torch.float32)


def unfit(call: Arguments) -> str:
    """Why no kernel serves one call; empty when each does."""
    epoch = call.epoch if isinstance(call.epoch, Tensor) else None
    return (
        unreadable(call.images, call.index, call.rows, epoch)
        or unserved("pad_mode", call.pad_mode, PAD_MODES)
        or _unfit_sizes(call.images, call.pad)
    )


def _unfit_sizes(images: Tensor, pad: int) -> str:
    if not images.is_contiguous():
        return "images are not contiguous"
    height, width, channels = images.shape[1:]
    if max(height * width * channels, height + 2 * pad, width + 2 * pad) >= _MOST:
        return f"an image or its padding has {_MOST} values or more"
    return ""


def epoch_words(epoch: Word) -> tuple[int, Tensor | None]:
    """The epoch as a number, or as an int64 tensor with a number that does not count; nothing is read."""
    return (0, epoch.to(torch.int64)) if isinstance(epoch, Tensor) else (epoch, None)


def result(call: Arguments) -> Tensor:
    """Room for the samples, one for each of ``index``."""
    height, width, channels = call.images.shape[1:]
    shape, device = (len(call.index), channels, height, width), call.images.device
    return torch.empty(shape, dtype=call.dtype, device=device, memory_format=call.memory_format)
