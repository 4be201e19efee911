"""What the backends of ``pgd_step`` share: the order of elements in memory, and the results' tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

FORMATS = {torch.contiguous_format: None, torch.channels_last: 4, torch.channels_last_3d: 5}
"""The memory formats, and the only number of dimensions that each exists for."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MOST = 2**31


class Arrays(NamedTuple):
    """One call's tensors. All have the elements of a sample together, in the order of ``images`` or the other.

    In the order of ``images`` element o·inner + k of a sample is, in the other, element k·outer + o.
    """

    delta: Tensor
    grad: Tensor
    delta_out: Tensor
    x_adv: Tensor
    network_input: Tensor
    """Empty where it is ``x_adv``."""
    nan_grad: Tensor
    num_samples: int
    sample_size: int
    inner: int
    grad_turned: bool
    """Whether ``grad`` has the other order; so ``network_turned``."""
    network_turned: bool

    @property
    def results(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """In the order of the op."""
        return self.delta_out, self.x_adv, self.network_input, self.nan_grad


def arrange(
    images: Tensor,
    delta: Tensor,
    grad: Tensor,
    dtype: torch.dtype | None,
    memory_format: torch.memory_format | None,
) -> Arrays:
    """The arrays of a call that :func:`unfit` lets pass, the results unwritten and ``nan_grad`` false."""
    if _turned(images, delta):
        delta = torch.empty_like(images).copy_(delta)
    if not _formats(grad):
        grad = grad.contiguous()
    x_adv, num_samples = torch.empty_like(images), len(images)
    network = empty_network_input(x_adv, dtype, memory_format)
    return Arrays(
        delta=delta,
        grad=grad,
        delta_out=torch.empty_like(images),
        x_adv=x_adv,
        network_input=network,
        nan_grad=torch.zeros((), dtype=torch.bool, device=images.device),
        num_samples=num_samples,
        sample_size=images.numel() // max(num_samples, 1),
        inner=_inner(images),
        grad_turned=_turned(images, grad),
        network_turned=network.numel() > 0 and _turned(images, network),
    )


def empty_network_input(
    x_adv: Tensor, dtype: torch.dtype | None, memory_format: torch.memory_format | None
) -> Tensor:
    """What the network's input is to be written to; without elements where ``x_adv`` is all that was asked for."""
    dtype = dtype or x_adv.dtype
    if dtype == x_adv.dtype and (memory_format is None or x_adv.is_contiguous(memory_format=memory_format)):
        return x_adv.new_empty(0)
    return torch.empty_like(x_adv, dtype=dtype, memory_format=memory_format or torch.preserve_format)


def network_copy(x_adv: Tensor, dtype: torch.dtype | None, memory_format: torch.memory_format | None) -> Tensor:
    """:func:`empty_network_input`, written; ``x_adv`` may carry a graph."""
    like = empty_network_input(x_adv.detach(), dtype, memory_format)
    if not like.numel():
        return like
    return x_adv.to(like.dtype, copy=True, memory_format=memory_format or torch.preserve_format)


def only_float32(unsupported: Callable[[str, torch.dtype], str]) -> Callable[[str, torch.dtype], str]:
    """``unsupported``, which speaks of the images here: those, δ and x' are in full precision."""

    def why(device: str, dtype: torch.dtype) -> str:
        return unsupported(device, dtype) or ("" if dtype == torch.float32 else f"images are float32, not {dtype}")

    return why


def unfit(images: Tensor, grad: Tensor, network_dtype: torch.dtype | None) -> str:
    """Why no backend reads or writes such arrays; empty when each does."""
    if grad.dtype not in DTYPES or (network_dtype or torch.float32) not in DTYPES:
        return f"gradient and network's input are float32, bfloat16 or float16, not {grad.dtype}, {network_dtype}"
    if not _formats(images):
        return "images are not dense in a memory format"
    if images.numel() >= _MOST * max(len(images), 1):
        return f"a sample has {images.numel() // len(images)} elements, not below 2^31"
    return ""


def _formats(tensor: Tensor) -> set[torch.memory_format]:
    return {memory_format for memory_format in FORMATS if tensor.is_contiguous(memory_format=memory_format)}


def _turned(images: Tensor, other: Tensor) -> bool:
    return not _formats(images) & _formats(other)


def _inner(images: Tensor) -> int:
    """Channels where they come last, else what follows them; 1 where there is but one order."""
    if images.dim() not in (4, 5):
        return 1
    return math.prod(images.shape[2:]) if images.is_contiguous() else images.shape[1]
