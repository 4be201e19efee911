"""``sgd`` in one pass, in C++ on the CPU and in CUDA: the reference's results, bit for bit."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastiseat.kernels.core import flat
from fastiseat.kernels.core import native as library
from fastiseat.kernels.core.flat import Number

unsupported = library.unsupported


def unfit(
    weights: Tensor,
    momentum_buffer: Tensor | None,
    grad: Tensor,
    block_segment: Tensor,
    perturbed: Tensor,
    *,
    second_grad: Tensor | None,
    perturbation_grad: Tensor | None,
    ratio: Tensor | None,
    ema: Tensor | None,
    **_: Any,
) -> str:
    """Why this one call cannot be served; empty when it can."""
    buffers = (weights, momentum_buffer, grad, second_grad, perturbation_grad, ema)
    return library.unfit(*buffers, ratio) or flat.unfit(*buffers)


def sgd(
    weights: Tensor,
    momentum_buffer: Tensor | None,
    grad: Tensor,
    block_segment: Tensor,
    perturbed: Tensor,
    *,
    lr: Number,
    momentum: Number,
    weight_decay: Number,
    second_grad: Tensor | None,
    perturbation_grad: Tensor | None,
    ratio: Tensor | None,
    active: Tensor | None,
    skip: Tensor | None,
    ema: Tensor | None,
    ema_decay: Number,
    nesterov: bool,
) -> None:
    """``fastiseat.kernels.sgd`` for the calls that ``unfit`` lets pass."""
    numbers = [flat.split_number(number) for number in (lr, momentum, weight_decay, ema_decay)]
    library.call(
        "sgd",
        weights,
        weights,
        momentum_buffer,
        ema,
        grad,
        second_grad,
        perturbation_grad,
        library.DTYPES[grad.dtype],
        ratio,
        block_segment,
        perturbed,
        active,
        skip,
        len(block_segment),
        *(part for number in numbers for part in number),
        nesterov,
    )
