"""``sgd`` in one pass, in C++ on the CPU and in CUDA: the reference's results, bit for bit."""

from __future__ import annotations

from fastiseat.kernels.core import flat
from fastiseat.kernels.core import native as library
from fastiseat.kernels.core.fit import unreadable
from fastiseat.kernels.sgd.arguments import Arguments

unsupported = library.unsupported


def unfit(call: Arguments) -> str:
    """Why no kernel serves this one call; empty when each does."""
    gradients = (call.grad, call.second_grad, call.perturbation_grad)
    buffers = (call.weights, call.momentum_buffer, call.ema, *gradients)
    return unreadable(*buffers, call.ratio) or flat.unfit(*buffers)


def sgd(call: Arguments) -> None:
    """``fastiseat.kernels.sgd`` for the calls that ``unfit`` lets pass."""
    segments = call.segments
    library.call(
        "sgd",
        call.weights,
        call.weights,
        call.momentum_buffer,
        call.ema,
        call.grad,
        call.second_grad,
        call.perturbation_grad,
        library.DTYPES[call.grad.dtype],
        call.ratio,
        segments.block_segment,
        segments.perturbed,
        call.active,
        call.skip,
        len(segments.block_segment),
        *flat.split_number(call.lr),
        *flat.split_number(call.momentum),
        *flat.split_number(call.weight_decay),
        *flat.split_number(call.ema_decay),
        call.nesterov,
    )
