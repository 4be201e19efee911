"""``augment`` in one pass over the output, in C++ and CUDA: everywhere the bits that the reference has on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.kernels.augment.arguments import Arguments
from fastiseat.kernels.augment.limits import LAYOUTS, PAD_MODES, epoch_words, result, unsupported_images
from fastiseat.kernels.core import native


def unsupported(device: str, dtype: torch.dtype) -> str:
    """Why no call on this device and dtype of images can be served; empty when one can."""
    return unsupported_images(dtype) or native.unsupported(device, torch.float32)


def augment(call: Arguments) -> Tensor:
    """``fastiseat.kernels.augment`` for the calls that ``limits.unfit`` lets pass."""
    out = result(call)
    epoch, epoch_tensor = epoch_words(call.epoch)
    native.call(
        "augment",
        call.images,
        call.images,
        call.index.contiguous(),
        None if call.rows is None else call.rows.contiguous(),
        epoch_tensor,
        out,
        len(call.index),
        *call.images.shape,
        call.seed,
        epoch,
        call.pad,
        call.flip,
        PAD_MODES[call.pad_mode],
        LAYOUTS[call.memory_format],
        native.DTYPES[call.dtype],
    )
    return out
