"""``stability_loss`` in native code: in three passes over a batch on a CPU, in one launch on a CUDA device."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.kernels.core import native
from fastiseat.kernels.core.flat import split_number
from fastiseat.kernels.stability_loss.arguments import Arguments
from fastiseat.kernels.stability_loss.limits import DISTANCES, WEIGHTINGS, num_weighted
from fastiseat.kernels.stability_loss.reference import Results

unsupported = native.unsupported


def stability_loss(call: Arguments) -> Results:
    """``fastiseat.kernels.stability_loss`` for the calls that ``limits.unfit`` lets pass."""
    logits, clean_logits = call.logits.detach(), call.clean_logits.detach()
    if logits.is_cpu:  # logits are small: a copy costs less than a build of each loop for each dtype
        logits, clean_logits = logits.float(), clean_logits.float()
    results = new_results(logits)
    native.call(
        "stability_loss",
        logits,
        logits.contiguous(),
        clean_logits.contiguous(),
        call.labels.contiguous(),
        native.DTYPES[logits.dtype],
        *logits.shape,
        *split_number(call.lam),
        WEIGHTINGS[call.weighting],
        num_weighted(call),
        DISTANCES[call.distance],
        *results,
    )
    return results


def new_results(logits: Tensor) -> Results:
    """Room for what the op returns, in float32."""
    m, num_classes = logits.shape
    scalars, rows, gradients = (
        [torch.empty(shape, dtype=torch.float32, device=logits.device) for _ in range(3)]
        for shape in ((), (m,), (m, num_classes))
    )
    return (*scalars, *rows, *gradients)
