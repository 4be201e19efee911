"""``pgd_step`` in one pass over the batch, in C++ on the CPU: the reference's results, bit for bit."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from fastiseat.kernels.native import library

_MEMORY_FORMATS = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)


def unsupported(device: str, dtype: torch.dtype) -> str:
    """Why no call on this device and dtype can be served; empty when one can."""
    if device != "cpu" or dtype != torch.float32:
        return f"serves float32 on the CPU, not {dtype} on {device}"
    missing = library().missing
    return missing and f"the native library is {missing}"


def unfit(images: Tensor, delta: Tensor, grad: Tensor, *, eps: float | Tensor, step_size: float | Tensor) -> str:
    """Why this one call cannot be served; empty when it can."""
    pixels = (images, delta, grad)
    tensors = (*pixels, *(value for value in (eps, step_size) if isinstance(value, Tensor)))
    if any(type(tensor) is not Tensor or not tensor.is_cpu for tensor in tensors):
        return "an argument is no plain tensor on the CPU"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return "an argument requires grad"
    if not any(all(x.is_contiguous(memory_format=order) for x in pixels) for order in _MEMORY_FORMATS):
        return "images, delta and grad are not dense in one memory format"
    return ""


def pgd_step(
    images: Tensor, delta: Tensor, grad: Tensor, *, eps: float | Tensor, step_size: float | Tensor
) -> tuple[Tensor, Tensor]:
    """``fastiseat.kernels.pgd_step`` for the calls that ``unfit`` lets pass."""
    num_samples = len(images)
    radii, steps = _one_each(eps, num_samples), _one_each(step_size, num_samples)
    new_delta, x_adv = torch.empty_like(images), torch.empty_like(images)
    _function()(
        images.data_ptr(),
        delta.data_ptr(),
        grad.data_ptr(),
        radii.data_ptr(),
        steps.data_ptr(),
        new_delta.data_ptr(),
        x_adv.data_ptr(),
        num_samples,
        images.numel() // max(num_samples, 1),
        torch.get_num_threads(),
    )
    return new_delta, x_adv


def _one_each(value: float | Tensor, num_samples: int) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to(torch.float32).expand(num_samples).contiguous()
    return torch.full((num_samples,), value, dtype=torch.float32, device="cpu")


@cache
def _function() -> Callable[..., None]:
    handle = library().handle
    assert handle is not None, "unsupported() lets no call pass without the library"
    function = handle.fastiseat_pgd_step_f32
    function.argtypes = [*[ctypes.c_void_p] * 7, ctypes.c_int64, ctypes.c_int64, ctypes.c_int32]
    function.restype = None
    return function
