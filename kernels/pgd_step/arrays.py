"""What the backends of ``pgd_step`` share: what they serve, the order of elements in memory, the results' tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fastiseat.kernels.core.fit import unreadable, unserved
from fastiseat.kernels.pgd_step.arguments import Arguments

NORMS = {"linf": 0, "l2": 1}
"""The balls that the kernels have, in Triton and in native code, by the codes of ``csrc/pgd_step.h``."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_FORMATS = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)
_MOST = 2**31


class Arrays(NamedTuple):
    """One call's tensors. All have the elements of a sample together, in the order of ``images`` or the other.

    In the order of ``images`` element o·inner + k of a sample is, in the other, element k·outer + o.
    """

    delta: Tensor
    grad: Tensor
    delta_out: Tensor
    x_adv: Tensor
    nan_grad: Tensor
    num_samples: int
    sample_size: int
    inner: int
    grad_turned: bool
    """Whether ``grad`` has the other order."""

    @property
    def results(self) -> tuple[Tensor, Tensor, Tensor]:
        """In the order of the op."""
        return self.delta_out, self.x_adv, self.nan_grad


def arrange(call: Arguments) -> Arrays:
    """The arrays of a call that :func:`unfit` lets pass, the results unwritten and ``nan_grad`` false."""
    images, delta, grad = call.images, call.delta, call.grad
    if _turned(images, delta):
        delta = torch.empty_like(images).copy_(delta)
    if not _formats(grad):
        grad = grad.contiguous()
    num_samples = len(images)
    return Arrays(
        delta=delta,
        grad=grad,
        delta_out=torch.empty_like(images),
        x_adv=torch.empty_like(images),
        # Kernels write nothing but true here, so that threads need not agree on it.
        nan_grad=torch.zeros((), dtype=torch.bool, device=images.device),
        num_samples=num_samples,
        sample_size=images.numel() // max(num_samples, 1),
        inner=_inner(images),
        grad_turned=_turned(images, grad),
    )


def only_float32(unsupported: Callable[[str, torch.dtype], str]) -> Callable[[str, torch.dtype], str]:
    """``unsupported``, which speaks of the images here: those, δ and x' are in full precision."""

    def why(device: str, dtype: torch.dtype) -> str:
        return unsupported(device, dtype) or ("" if dtype == torch.float32 else f"images are float32, not {dtype}")

    return why


def unfit(call: Arguments) -> str:
    """Why no kernel serves this one call; empty when each does."""
    numbers = (value for value in (call.eps, call.step_size) if isinstance(value, Tensor))
    return (
        unreadable(call.images, call.delta, call.grad, *numbers)
        or unserved("norm", call.norm, NORMS)
        or _unfit_arrays(call.images, call.grad)
    )


def _unfit_arrays(images: Tensor, grad: Tensor) -> str:
    if grad.dtype not in DTYPES:
        return f"the gradient is float32, bfloat16 or float16, not {grad.dtype}"
    if not _formats(images):
        return "images are not dense in a memory format"
    if images.numel() >= _MOST * max(len(images), 1):
        return f"a sample has {images.numel() // len(images)} elements, not below 2^31"
    return ""


def _formats(tensor: Tensor) -> set[torch.memory_format]:
    return {memory_format for memory_format in _FORMATS if tensor.is_contiguous(memory_format=memory_format)}


def _turned(images: Tensor, other: Tensor) -> bool:
    return not _formats(images) & _formats(other)


def _inner(images: Tensor) -> int:
    """Channels where they come last, else what follows them; 1 where there is but one order."""
    if images.dim() not in (4, 5):
        return 1
    return math.prod(images.shape[2:]) if images.is_contiguous() else images.shape[1]
