"""``weight_perturb`` in C++ on the CPU and in CUDA: a pass for the norms, one for the sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastiseat.kernels.core import flat
from fastiseat.kernels.core import native as library
from fastiseat.kernels.core.flat import Number

unsupported = library.unsupported


def unfit(
    weights: Tensor,
    grad: Tensor,
    block_segment: Tensor,
    first_block: Tensor,
    perturbed: Tensor,
    *,
    out: Tensor,
    out_full: Tensor | None,
    **_: Any,
) -> str:
    """Why this one call cannot be served; empty when it can."""
    buffers = (weights, grad, out, out_full)
    return library.unfit(*buffers) or flat.unfit(*buffers)


def weight_perturb(
    weights: Tensor,
    grad: Tensor,
    block_segment: Tensor,
    first_block: Tensor,
    perturbed: Tensor,
    *,
    gamma: Number,
    norm: str,
    out: Tensor,
    out_full: Tensor | None,
) -> Tensor:
    """``fastiseat.kernels.weight_perturb`` for the calls that ``unfit`` lets pass."""
    num_blocks, num_segments = len(block_segment), len(perturbed)
    ratio = torch.empty(num_segments, dtype=weights.dtype, device=weights.device)
    sums = torch.empty(2 * (num_blocks + num_segments), dtype=torch.float64, device=weights.device)
    library.call(
        "weight_perturb",
        weights,
        weights,
        grad,
        library.DTYPES[grad.dtype],
        block_segment,
        first_block,
        perturbed,
        num_blocks,
        num_segments,
        *flat.split_number(gamma),
        norm == "global",
        sums,
        ratio,
        out,
        library.DTYPES[out.dtype],
        len(out),
        out_full,
    )
    return ratio
