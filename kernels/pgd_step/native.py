"""``pgd_step`` in one pass over the batch, in C++ and CUDA: in the L∞ ball the reference's results, bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.kernels.core import native
from fastiseat.kernels.pgd_step import arrays
from fastiseat.kernels.pgd_step.arguments import Arguments

unsupported = arrays.only_float32(native.unsupported)


def pgd_step(call: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """``fastiseat.kernels.pgd_step`` for the calls that ``unfit`` lets pass."""
    found = arrays.arrange(call)
    native.call(
        "pgd_step",
        call.images,
        call.images,
        found.delta,
        found.grad,
        native.DTYPES[call.grad.dtype],
        *_number(call.eps),
        *_number(call.step_size),
        arrays.NORMS[call.norm],
        found.delta_out,
        found.x_adv,
        found.nan_grad,
        found.num_samples,
        found.sample_size,
        found.inner,
        found.grad_turned,
    )
    return found.results


def _number(value: float | Tensor) -> tuple[float, Tensor | None, bool]:
    """Value, or the floats that it lies in, and whether there is one a sample."""
    if not isinstance(value, Tensor):
        return float(value), None, False
    return 0.0, value.to(torch.float32).contiguous(), value.numel() != 1
