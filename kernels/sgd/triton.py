"""``sgd`` in one Triton kernel: the reference's results, bit for bit."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fastiseat.kernels.core.flat import split_number
from fastiseat.kernels.core.segments import BLOCK
from fastiseat.kernels.sgd.arguments import Arguments

NUM_WARPS = 8
"""Four elements a thread, of every dtype: with more, half precision and float32 would lie with different threads."""


@triton.jit
def _step(theta, place, segment, grad, second_grad, perturbation_grad, ratio, perturbed, weight_decay):
    step = tl.load(grad + place).to(tl.float32)
    if second_grad is not None:
        step += tl.load(second_grad + place).to(tl.float32)
    decayed = theta
    if perturbation_grad is not None:  # noqa: SIM102 - known when it is compiled; the other is not
        if tl.load(perturbed + segment) != 0:
            decayed = theta + tl.load(ratio + segment) * tl.load(perturbation_grad + place).to(tl.float32)
    return step + weight_decay * decayed


@triton.jit
def _sgd(
    weights,
    momentum_buffer,
    ema,
    grad,
    second_grad,
    perturbation_grad,
    ratio,
    block_segment,
    perturbed,
    active,
    skip,
    lr,
    lr_tensor,
    momentum,
    momentum_tensor,
    weight_decay,
    weight_decay_tensor,
    ema_decay,
    ema_decay_tensor,
    NESTEROV: tl.constexpr,
    BLOCK: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64)
    place = block * BLOCK + tl.arange(0, BLOCK)
    segment = tl.load(block_segment + block)
    moves = segment >= 0
    if skip is not None:
        moves = moves & (tl.load(skip) == 0)
    if active is not None:
        moves = moves & (tl.load(active + segment, mask=moves, other=0) != 0)
    if lr_tensor is not None:
        lr = tl.load(lr_tensor)
    if momentum_tensor is not None:
        momentum = tl.load(momentum_tensor)
    if weight_decay_tensor is not None:
        weight_decay = tl.load(weight_decay_tensor)
    if ema_decay_tensor is not None:
        ema_decay = tl.load(ema_decay_tensor)
    if moves:
        theta = tl.load(weights + place)
        step = _step(theta, place, segment, grad, second_grad, perturbation_grad, ratio, perturbed, weight_decay)
        if momentum_buffer is not None:
            buffer = momentum * tl.load(momentum_buffer + place) + step
            tl.store(momentum_buffer + place, buffer)
            step = momentum * buffer + step if NESTEROV else buffer
        theta = theta - lr * step
        tl.store(weights + place, theta)
        if ema is not None:
            decay = tl.full((), ema_decay, tl.float32)  # the interpreter has a double here
            average = decay * tl.load(ema + place) + (1.0 - decay) * theta
            tl.store(ema + place, average)


def sgd(call: Arguments) -> None:
    """``fastiseat.kernels.sgd`` for the calls that ``native.unfit`` lets pass."""
    segments = call.segments
    if not len(segments.block_segment):
        return
    _sgd[(len(segments.block_segment),)](
        call.weights,
        call.momentum_buffer,
        call.ema,
        call.grad,
        call.second_grad,
        call.perturbation_grad,
        call.ratio,
        segments.block_segment,
        *(
            None if table is None else table.view(torch.uint8)
            for table in (segments.perturbed, call.active, call.skip)
        ),
        *split_number(call.lr),
        *split_number(call.momentum),
        *split_number(call.weight_decay),
        *split_number(call.ema_decay),
        NESTEROV=call.nesterov,
        BLOCK=BLOCK,
        num_warps=NUM_WARPS,
        enable_fp_fusion=False,  # each product is rounded before it is added
    )
