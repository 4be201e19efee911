"""``weight_perturb`` in C++ on the CPU and in CUDA: a pass for the norms, one for the sum."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.kernels.core import flat
from fastiseat.kernels.core import native as library
from fastiseat.kernels.core.fit import unreadable, unserved
from fastiseat.kernels.weight_perturb.arguments import Arguments

NORMS = {"tensor": 0, "global": 1}
"""What the kernels take the norms of, by the codes of ``csrc/weight_perturb.h``."""

unsupported = library.unsupported


def unfit(call: Arguments) -> str:
    """Why no kernel serves this one call; empty when each does."""
    buffers = (call.weights, call.grad, call.out, call.out_full)
    return unreadable(*buffers) or flat.unfit(*buffers) or unserved("norm", call.norm, NORMS)


def weight_perturb(call: Arguments) -> Tensor:
    """``fastiseat.kernels.weight_perturb`` for the calls that ``unfit`` lets pass."""
    weights, segments = call.weights, call.segments
    num_blocks, num_segments = len(segments.block_segment), len(segments.perturbed)
    ratio = torch.empty(num_segments, dtype=weights.dtype, device=weights.device)
    sums = torch.empty(2 * (num_blocks + num_segments), dtype=torch.float64, device=weights.device)
    library.call(
        "weight_perturb",
        weights,
        weights,
        call.grad,
        library.DTYPES[call.grad.dtype],
        *segments,
        num_blocks,
        num_segments,
        *flat.split_number(call.gamma),
        NORMS[call.norm],
        sums,
        ratio,
        call.out,
        library.DTYPES[call.out.dtype],
        len(call.out),
        call.out_full,
    )
    return ratio
