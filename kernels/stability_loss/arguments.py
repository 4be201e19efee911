"""What ``stability_loss`` takes."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
from torch import Tensor

from fastiseat.errors import UserError, unknown
from fastiseat.kernels.core.checks import host_may_look
from fastiseat.kernels.core.signature import choices_of

Weighting = Literal["linear", "uniform", "top"]
Distance = Literal["l2", "kl"]


@dataclass(frozen=True, slots=True)
class Arguments:
    """What :func:`stability_loss` takes.

    Args:
        logits: z', (m, C), of any floating dtype: at θ+ν on the adversarial images.
        clean_logits: z, likewise: at θ on the clean ones.
        labels: y, (m,) int64 in 0 … C - 1, which is checked on a CPU only.
        lam: λ, a number, or a tensor of one element on the device, which gets no gradient.
        weighting: ``linear`` (w = 1 - rank/m), ``uniform`` (w = 1), or ``top`` (1 for rank < ⌈top·m⌉, else 0).
        top: the share of the batch that ``top`` weights, in (0, 1].
        distance: ``l2`` (d = ‖z' - z‖²) or ``kl`` (d = KL(softmax z ‖ softmax z'), as in MART).
    """

    logits: Tensor
    clean_logits: Tensor
    labels: Tensor
    _: KW_ONLY
    lam: float | Tensor
    weighting: Weighting = "linear"
    top: float = 0.1
    distance: Distance = "l2"


_CHOICES = choices_of(Arguments)


def check(call: Arguments) -> None:
    """Raise UserError for an argument that is not as described."""
    _check_tensors(call.logits, call.clean_logits, call.labels)
    for name, choices in _CHOICES.items():
        if getattr(call, name) not in choices:
            raise unknown(name, getattr(call, name), choices)
    if not 0 < call.top <= 1:
        raise UserError(f"top={call.top} must lie in (0, 1]: it is a share of the batch")
    _check_lam(call.lam, call.logits.device)


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


def _check_lam(lam: float | Tensor, device: torch.device) -> None:
    if not isinstance(lam, Tensor):
        if not math.isfinite(lam):
            raise UserError(f"lam={lam} must be finite; 0 leaves the stability out")
    elif lam.numel() != 1 or not lam.is_floating_point() or lam.device != device:
        raise UserError(
            f"lam is {lam.dtype} of shape {tuple(lam.shape)} on {lam.device}; give a number, or one float on {device}"
        )
