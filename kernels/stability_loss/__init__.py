"""ISEAT's objective: adversarial cross entropy, and logit stability weighted by adversarial vulnerability."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastiseat.errors import UserError, unknown
from fastiseat.kernels.core import triton_support
from fastiseat.kernels.core.checks import host_may_look
from fastiseat.kernels.core.dispatch import Backend, Op
from fastiseat.kernels.stability_loss import limits, native, reference
from fastiseat.kernels.stability_loss.registration import REGISTRATION

WEIGHTINGS = ("linear", "uniform", "top")
DISTANCES = ("l2", "kl")


class StabilityLoss(NamedTuple):
    """What :func:`stability_loss` returns; the first three are differentiable for both logits."""

    total: Tensor
    """adversarial + stability, ()."""
    adversarial: Tensor
    """mean ℓ', ()."""
    stability: Tensor
    """λ/m Σ w d, ()."""
    losses: Tensor
    """ℓ', (m,); carries no gradient, as what follows."""
    clean_losses: Tensor
    """ℓ, (m,)."""
    weights: Tensor
    """w, (m,)."""


_OP = Op(
    "stability_loss",
    reference.stability_loss,
    Backend(
        name="triton",
        run=triton_support.late("fastiseat.kernels.stability_loss.triton", "stability_loss"),
        unsupported=triton_support.unsupported,
        unfit=limits.unfit_for_one_block,
        only_when_named=triton_support.ONLY_WHEN_NAMED,
    ),
    Backend(name="native", run=native.stability_loss, unsupported=native.unsupported, unfit=native.unfit),
    registration=REGISTRATION,
)
_OPS = (_OP,)


def stability_loss(
    logits: Tensor,
    clean_logits: Tensor,
    labels: Tensor,
    *,
    lam: float | Tensor,
    weighting: str = "linear",
    top: float = 0.1,
    distance: str = "l2",
) -> StabilityLoss:
    """mean ℓ' + λ/m Σ w d: Eq. 15 of the paper, with the alternatives of its Table 8.

    ℓ' and ℓ are the cross entropies of z' and z, and the highest vulnerability ℓ' - ℓ has rank 0, ties in order
    of index and NaN first. w is a constant: no gradient passes through the ranks. Losses and results are float32
    for logits in half precision, whose gradients come back in their own dtype. Only the reference has second
    derivatives.

    Args:
        logits: z', (m, C), of any floating dtype: at θ+ν on the adversarial images.
        clean_logits: z, likewise: at θ on the clean ones.
        labels: y, (m,) int64 in 0 … C - 1, which is checked on a CPU only.
        lam: λ, a number, or a tensor of one element on the device, which gets no gradient.
        weighting: ``linear`` (w = 1 - rank/m), ``uniform`` (w = 1), or ``top`` (1 for rank < ⌈top·m⌉, else 0).
        top: the share of the batch that ``top`` weights, in (0, 1].
        distance: ``l2`` (d = ‖z' - z‖²) or ``kl`` (d = KL(softmax z ‖ softmax z'), as in MART).

    Raises :class:`fastiseat.errors.UserError` for shapes, dtypes or choices other than these.
    """
    _check_tensors(logits, clean_logits, labels)
    _check_choices(logits, lam, weighting, top, distance)
    results = _OP(logits, clean_logits, labels, lam=lam, weighting=weighting, top=top, distance=distance)
    return StabilityLoss(*results[: len(StabilityLoss._fields)])


def _check_tensors(logits: Tensor, clean_logits: Tensor, labels: Tensor) -> None:
    if not logits.is_floating_point() or logits.dim() != 2 or logits.numel() == 0:
        raise UserError(
            f"logits are {logits.dtype} of shape {tuple(logits.shape)}; floats of shape (m, C) are needed, "
            "for at least one sample and one class"
        )
    if clean_logits.shape != logits.shape or clean_logits.dtype != logits.dtype:
        raise UserError(
            f"clean_logits are {clean_logits.dtype} of shape {tuple(clean_logits.shape)}; they must match logits, "
            f"{logits.dtype} of shape {tuple(logits.shape)}"
        )
    if labels.dtype != torch.int64 or labels.shape != logits.shape[:1]:
        raise UserError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; int64 of shape ({len(logits)},) is needed"
        )
    for name, tensor in {"clean_logits": clean_logits, "labels": labels}.items():
        if tensor.device != logits.device:
            raise UserError(f"{name} lie on {tensor.device}, logits on {logits.device}; move one of them")
    if host_may_look(labels):
        lowest, highest = (int(value) for value in labels.aminmax())
        if lowest < 0 or highest >= logits.shape[1]:
            raise UserError(
                f"labels reach from {lowest} to {highest}; with {logits.shape[1]} columns of logits they must lie "
                f"in 0 … {logits.shape[1] - 1}"
            )


def _check_choices(logits: Tensor, lam: float | Tensor, weighting: str, top: float, distance: str) -> None:
    if weighting not in WEIGHTINGS:
        raise unknown("weighting", weighting, WEIGHTINGS)
    if distance not in DISTANCES:
        raise unknown("distance", distance, DISTANCES)
    if not 0 < top <= 1:
        raise UserError(f"top={top} must lie in (0, 1]: it is a share of the batch")
    if not isinstance(lam, Tensor):
        if not math.isfinite(lam):
            raise UserError(f"lam={lam} must be finite; 0 leaves the stability out")
    elif lam.numel() != 1 or not lam.is_floating_point() or lam.device != logits.device:
        raise UserError(
            f"lam is {lam.dtype} of shape {tuple(lam.shape)} on {lam.device}; give a number, or one float on "
            f"{logits.device}"
        )
