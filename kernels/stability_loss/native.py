"""``stability_loss`` in native code: in three passes over a batch on a CPU, in one launch on a CUDA device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastiseat.kernels.core import native
from fastiseat.kernels.stability_loss import limits
from fastiseat.kernels.stability_loss.reference import Results, num_top


def unsupported(device: str, dtype: torch.dtype) -> str:
    """Why no call on this device and dtype can be served; empty when one can."""
    return native.unsupported(device, dtype)


def unfit(logits: Tensor, clean_logits: Tensor, labels: Tensor, **choices: Any) -> str:
    """Why this one call cannot be served; empty when it can."""
    if logits.device.type == "cpu":
        return limits.unfit_anywhere(logits, clean_logits, labels)
    return limits.unfit_for_one_block(logits, clean_logits, labels)


def stability_loss(
    logits: Tensor,
    clean_logits: Tensor,
    labels: Tensor,
    *,
    lam: float | Tensor,
    weighting: str,
    top: float,
    distance: str,
) -> Results:
    """``fastiseat.kernels.stability_loss`` for the calls that ``unfit`` lets pass."""
    if logits.device.type == "cpu":
        logits, clean_logits = logits.float(), clean_logits.float()
    m, num_classes = logits.shape
    results = new_results(logits)
    native.call(
        "stability_loss",
        logits,
        logits.detach().contiguous(),
        clean_logits.detach().contiguous(),
        labels.contiguous(),
        native.DTYPES[logits.dtype],
        m,
        num_classes,
        0.0 if isinstance(lam, Tensor) else float(lam),
        lam.detach().float() if isinstance(lam, Tensor) else None,
        weighting == "linear",
        num_weighted(m, weighting, top),
        distance == "kl",
        *results,
    )
    return results


def num_weighted(num_samples: int, weighting: str, top: float) -> int:
    """How many of the highest ranks weigh 1 where the weighting is not linear."""
    return num_top(num_samples, top) if weighting == "top" else num_samples


def new_results(logits: Tensor) -> Results:
    """Room for what the op returns, in float32."""
    m, num_classes = logits.shape
    scalars, rows, gradients = (
        [torch.empty(shape, dtype=torch.float32, device=logits.device) for _ in range(3)]
        for shape in ((), (m,), (m, num_classes))
    )
    return (*scalars, *rows, *gradients)
