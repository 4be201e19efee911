"""What ``sgd`` takes."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.kernels.core import flat
from fastiseat.kernels.core.segments import Segments


@dataclass(frozen=True, slots=True)
class Arguments:
    """What :func:`sgd` takes.

    Args:
        weights: θ, (P,), float32 or float64; updated.
        momentum_buffer: b, like θ, updated; None for a step without momentum, which is θ ← θ - lr·d.
        grad: (P,), float32, bfloat16, float16 or the dtype of θ.
        segments: which tensor an element is of.
        lr: learning rate.
        momentum: of b.
        weight_decay: factor of θ+ν in d.
        second_grad: a gradient that is added, of shape and dtype of ``grad``: that at θ beside that at θ+ν.
        perturbation_grad: the gradient that ν was made of, of shape and dtype of ``grad``; None where ν is 0.
        ratio: what ``weight_perturb`` returned, (S,), of the dtype of θ; with ``perturbation_grad`` only.
        active: bool (S,): tensors where it is false stay as they are, b and average too. None for all true.
        skip: bool (): where it is true everything stays as it is, whatever the gradients hold.
        ema: the average, like θ, updated; may be None.
        ema_decay: of the average.
        nesterov: whether θ moves by what the next b would be; with ``momentum_buffer`` only.
    """

    weights: Tensor
    momentum_buffer: Tensor | None
    grad: Tensor
    segments: Segments
    _: KW_ONLY
    lr: float | Tensor
    momentum: float | Tensor
    weight_decay: float | Tensor
    second_grad: Tensor | None = None
    perturbation_grad: Tensor | None = None
    ratio: Tensor | None = None
    active: Tensor | None = None
    skip: Tensor | None = None
    ema: Tensor | None = None
    ema_decay: float | Tensor = 0.0
    nesterov: bool = False


def check(call: Arguments) -> None:
    """Raise UserError for an argument that is not as described."""
    weights = call.weights
    flat.check_weights(weights, call.segments)
    numbers = {name: getattr(call, name) for name in ("lr", "momentum", "weight_decay", "ema_decay")}
    flat.check_numbers(weights.device, numbers)
    gradients = {name: getattr(call, name) for name in ("grad", "second_grad", "perturbation_grad")}
    written = {name: getattr(call, name) for name in ("weights", "momentum_buffer", "ema")}
    flat.check_like(weights, gradients, dtype=call.grad.dtype)
    flat.check_like(weights, written, dtype=weights.dtype)
    flat.check_apart(written, gradients)
    if call.nesterov and call.momentum_buffer is None:
        raise UserError(
            "nesterov=True: it looks ahead along the momentum; give a momentum_buffer, or nesterov False"
        )
    _check_tables(call)


def _check_tables(call: Arguments) -> None:
    if (call.perturbation_grad is None) != (call.ratio is None):
        raise UserError("perturbation_grad and ratio make ν together: give both, or neither")
    flat.check_per_segment("ratio", call.ratio, call.weights.dtype, call.segments)
    flat.check_per_segment("active", call.active, torch.bool, call.segments)
    skip = call.skip
    if skip is not None and (skip.dtype != torch.bool or skip.dim() > 0):
        raise UserError(f"skip is {skip.dtype} of shape {tuple(skip.shape)}; bool of shape () is needed")
    flat.check_device("skip", skip, call.weights.device)
