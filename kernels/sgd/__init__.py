"""The update of all parameters at once, in flat buffers: momentum, weight decay at θ+ν, a running average."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.kernels.core import triton_support
from fastiseat.kernels.core.dispatch import Backend, Op
from fastiseat.kernels.core.flat import (
    check_apart,
    check_device,
    check_like,
    check_numbers,
    check_per_segment,
    check_weights,
)
from fastiseat.kernels.core.segments import Segments
from fastiseat.kernels.core.torch_ops import Registration
from fastiseat.kernels.sgd import native, reference


def _fake(*_: object) -> None:
    """Nothing is returned."""


_NUMBERS = ("lr", "momentum", "weight_decay", "ema_decay")
_OP = Op(
    "sgd",
    reference.sgd,
    Backend(
        name="triton",
        run=triton_support.late("fastiseat.kernels.sgd.triton", "sgd"),
        unsupported=triton_support.unsupported,
        unfit=native.unfit,
        only_when_named=triton_support.ONLY_WHEN_NAMED,
    ),
    Backend(name="native", run=native.sgd, unsupported=native.unsupported, unfit=native.unfit),
    registration=Registration(
        schema="(Tensor(a!) weights, Tensor(b!)? momentum_buffer, Tensor grad, Tensor block_segment, "
        "Tensor perturbed, float lr, float momentum, float weight_decay, Tensor? second_grad, "
        "Tensor? perturbation_grad, Tensor? ratio, Tensor? active, Tensor? skip, Tensor(c!)? ema, float ema_decay, "
        "bool nesterov, "
        f"{', '.join(f'Tensor? {name}_tensor=None' for name in _NUMBERS)}) -> ()",
        fake=_fake,
        numbers=_NUMBERS,
    ),
)
_OPS = (_OP,)


def sgd(
    weights: Tensor,
    momentum_buffer: Tensor | None,
    grad: Tensor,
    segments: Segments,
    *,
    lr: float | Tensor,
    momentum: float | Tensor,
    weight_decay: float | Tensor,
    second_grad: Tensor | None = None,
    perturbation_grad: Tensor | None = None,
    ratio: Tensor | None = None,
    active: Tensor | None = None,
    skip: Tensor | None = None,
    ema: Tensor | None = None,
    ema_decay: float | Tensor = 0.0,
    nesterov: bool = False,
) -> None:
    """One step of ``torch.optim.SGD``, its weight decay taken at θ+ν (Eq. 18 of the ISEAT paper), in place.

    g = grad + second_grad; d = g + weight_decay·(θ + ratio·perturbation_grad); b ← momentum·b + d; θ ← θ - lr·b;
    average ← ema_decay·average + (1 - ema_decay)·θ: in this order, in the dtype of θ, no two operations fused. b
    starts as zeros. With ``nesterov`` θ ← θ - lr·(d + momentum·b), b the new one. Nothing waits for the device;
    numbers may be tensors of one on it.

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

    Raises:
        UserError: for an argument that is not as described.
    """
    check_weights(weights, segments)
    numbers = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "ema_decay": ema_decay}
    check_numbers(weights.device, numbers)
    gradients = {"grad": grad, "second_grad": second_grad, "perturbation_grad": perturbation_grad}
    written = {"weights": weights, "momentum_buffer": momentum_buffer, "ema": ema}
    check_like(weights, gradients, dtype=grad.dtype)
    check_like(weights, written, dtype=weights.dtype)
    check_apart(written, gradients)
    if nesterov and momentum_buffer is None:
        raise UserError(
            "nesterov=True: it looks ahead along the momentum; give a momentum_buffer, or nesterov False"
        )
    _check_tables(weights, segments, perturbation_grad, ratio, active, skip)
    _OP(
        weights,
        momentum_buffer,
        grad,
        segments.block_segment,
        segments.perturbed,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        second_grad=second_grad,
        perturbation_grad=perturbation_grad,
        ratio=ratio,
        active=active,
        skip=skip,
        ema=ema,
        ema_decay=ema_decay,
        nesterov=nesterov,
    )


def _check_tables(
    weights: Tensor,
    segments: Segments,
    perturbation_grad: Tensor | None,
    ratio: Tensor | None,
    active: Tensor | None,
    skip: Tensor | None,
) -> None:
    if (perturbation_grad is None) != (ratio is None):
        raise UserError("perturbation_grad and ratio make ν together: give both, or neither")
    check_per_segment("ratio", ratio, weights.dtype, segments)
    check_per_segment("active", active, torch.bool, segments)
    if skip is not None and (skip.dtype != torch.bool or skip.dim() > 0):
        raise UserError(f"skip is {skip.dtype} of shape {tuple(skip.shape)}; bool of shape () is needed")
    check_device("skip", skip, weights.device)
