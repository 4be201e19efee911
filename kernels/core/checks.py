"""What ops demand of the arguments that they share, and say in the same words; and when values are looked at."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from fastiseat.errors import UserError

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_MEMORY_FORMATS = (torch.channels_last, torch.contiguous_format)


def host_may_look(tensor: Tensor) -> bool:
    """Whether a check may read values of ``tensor``: it waits for no device, and nobody records what is done.

    Elsewhere a read would wait for the device; a compiler has no values to look at, and what a dispatch mode
    records is to be replayed with others.
    """
    if torch.compiler.is_compiling() or type(tensor) is not Tensor:
        return False
    return tensor.is_cpu and _get_current_dispatch_mode() is None


def check_tensors(images: Tensor, index: Tensor, epoch: int | Tensor, rows: Tensor | None = None) -> None:
    """Raise UserError unless the tensors have the dtypes and shapes of a batch and lie on one device.

    With ``rows`` the batch is as long as they are, and else as ``images``.
    """
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise UserError(
            f"images are {images.dtype} of shape {tuple(images.shape)}; uint8 of shape (m, H, W, C) is needed"
        )
    if rows is not None and (rows.dtype != torch.int64 or rows.dim() != 1):
        raise UserError(f"rows are {rows.dtype} of shape {tuple(rows.shape)}; int64 of shape (m,) is needed")
    num_samples = len(images if rows is None else rows)
    if index.dtype != torch.int64 or index.shape != (num_samples,):
        raise UserError(
            f"index is {index.dtype} of shape {tuple(index.shape)}; int64 of shape ({num_samples},) is needed"
        )
    if isinstance(epoch, Tensor) and (epoch.dim() > 0 or epoch.is_floating_point() or epoch.is_complex()):
        raise UserError(
            f"epoch is {epoch.dtype} of shape {tuple(epoch.shape)}; one integer, of shape (), is needed"
        )
    for name, value in {"index": index, "epoch": epoch, "rows": rows}.items():
        if isinstance(value, Tensor) and value.device != images.device:
            raise UserError(f"{name} lies on {value.device}, images on {images.device}; move one of them")


def check_numbers(seed: int, epoch: int | Tensor) -> None:
    """Raise UserError unless seed and epoch fit into the words that the draws are made from."""
    if not 0 <= seed < 2**64:
        raise UserError(f"seed={seed} must lie in 0 … 2**64 - 1")
    if not isinstance(epoch, Tensor) and not 0 <= epoch < 2**32:
        raise UserError(f"epoch={epoch} must lie in 0 … 2**32 - 1")


def check_result(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    """Raise UserError for a dtype or a memory format that results are not offered in."""
    for name, value, known in (("dtype", dtype, _DTYPES), ("memory_format", memory_format, _MEMORY_FORMATS)):
        if value not in known:
            raise UserError(f"{name}={value} is not offered; choose among {', '.join(map(str, known))}")
