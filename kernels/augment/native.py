"""``augment`` in one pass over the output, in C++ and CUDA: everywhere the bits that the reference has on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.kernels.augment.limits import epoch_words, result, unfit_sizes, unsupported_images
from fastiseat.kernels.augment.reference import PadMode
from fastiseat.kernels.core import native
from fastiseat.kernels.core.philox import Word


def unsupported(device: str, dtype: torch.dtype) -> str:
    """Why no call on this device and dtype of images can be served; empty when one can."""
    return unsupported_images(dtype) or native.unsupported(device, torch.float32)


def unfit(images: Tensor, index: Tensor, *, rows: Tensor | None, epoch: Word, pad: int, **_: object) -> str:
    """Why this one call cannot be served; empty when it can."""
    return native.unfit(images, index, rows, epoch if isinstance(epoch, Tensor) else None) or unfit_sizes(
        images, pad
    )


def augment(
    images: Tensor,
    index: Tensor,
    *,
    rows: Tensor | None,
    seed: int,
    epoch: Word,
    flip: bool,
    pad: int,
    pad_mode: PadMode,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> Tensor:
    """``fastiseat.kernels.augment`` for the calls that ``unfit`` lets pass."""
    out = result(images, index, dtype, memory_format)
    number, tensor = epoch_words(epoch)
    native.call(
        "augment",
        images,
        images,
        index.contiguous(),
        None if rows is None else rows.contiguous(),
        tensor,
        out,
        len(index),
        *images.shape,
        seed,
        number,
        pad,
        flip,
        pad_mode == "reflect",
        memory_format == torch.channels_last,
        native.DTYPES[dtype],
    )
    return out
