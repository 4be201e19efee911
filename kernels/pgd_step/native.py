"""``pgd_step`` in one pass over the batch, in C++ and CUDA: in the L∞ ball the reference's results, bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.kernels.core import native
from fastiseat.kernels.pgd_step import arrays

unsupported = arrays.only_float32(native.unsupported)


def unfit(
    images: Tensor,
    delta: Tensor,
    grad: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str = "linf",
    network_dtype: torch.dtype | None = None,
    network_format: torch.memory_format | None = None,
) -> str:
    """Why this one call cannot be served; empty when it can."""
    numbers = (value for value in (eps, step_size) if isinstance(value, Tensor))
    return native.unfit(images, delta, grad, *numbers) or arrays.unfit(images, grad, network_dtype)


def pgd_step(
    images: Tensor,
    delta: Tensor,
    grad: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str = "linf",
    network_dtype: torch.dtype | None = None,
    network_format: torch.memory_format | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``fastiseat.kernels.pgd_step`` for the calls that ``unfit`` lets pass."""
    found = arrays.arrange(images, delta, grad, network_dtype, network_format)
    network = found.network_input
    native.call(
        "pgd_step",
        images,
        images,
        found.delta,
        found.grad,
        native.DTYPES[grad.dtype],
        *_number(eps),
        *_number(step_size),
        norm == "l2",
        found.delta_out,
        found.x_adv,
        network if network.numel() else None,
        native.DTYPES[network.dtype],
        found.nan_grad,
        found.num_samples,
        found.sample_size,
        found.inner,
        found.grad_turned,
        found.network_turned,
    )
    return found.results


def _number(value: float | Tensor) -> tuple[float, Tensor | None, bool]:
    """Value, or the floats that it lies in, and whether there is one a sample."""
    if not isinstance(value, Tensor):
        return float(value), None, False
    return 0.0, value.to(torch.float32).contiguous(), value.numel() != 1
