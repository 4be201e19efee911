"""One step of projected gradient ascent in a ball around images in [0, 1]."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastiseat.kernels.core import triton_support
from fastiseat.kernels.core.dispatch import Backend, Op
from fastiseat.kernels.core.signature import takes
from fastiseat.kernels.core.torch_ops import Registration
from fastiseat.kernels.pgd_step import arrays, native, reference
from fastiseat.kernels.pgd_step.arguments import Arguments, Norm, check

__all__ = ["Arguments", "Norm", "PGDStep", "pgd_step"]


class PGDStep(NamedTuple):
    """What :func:`pgd_step` returns."""

    delta: Tensor
    """The new δ; dtype and layout of the images."""
    x_adv: Tensor
    """x' = clamp(x + δ, 0, 1), likewise."""
    nan_grad: Tensor
    """bool (): whether the gradient holds a NaN."""


def _fake(call: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    delta, x_adv = torch.empty_like(call.images), torch.empty_like(call.images)
    return delta, x_adv, call.images.new_empty((), dtype=torch.bool)


_OP = Op(
    "pgd_step",
    Arguments,
    reference.pgd_step,
    Backend(
        name="triton",
        run=triton_support.late("fastiseat.kernels.pgd_step.triton", "pgd_step"),
        unsupported=arrays.only_float32(triton_support.unsupported),
        unfit=arrays.unfit,
        only_when_named=triton_support.ONLY_WHEN_NAMED,
    ),
    Backend(name="native", run=native.pgd_step, unsupported=native.unsupported, unfit=arrays.unfit),
    registration=Registration(returns="(Tensor, Tensor, Tensor)", fake=_fake),
)
_OPS = (_OP,)


@takes(Arguments)
def pgd_step(call: Arguments) -> PGDStep:
    """Ascend, project and clip (Madry et al., 2018).

    In the L∞ ball ``clamp(δ + α·sign g, -ε, ε)``, where sign 0 and sign NaN are 0. In the L2 ball
    ``δ + α·g/‖g‖₂``, then times ``min(1, ε/‖δ‖₂)``, sample by sample and in float64 up to the last rounding; a
    sample whose ‖g‖₂ is 0 or not finite takes no step. Then x' = clamp(x + δ, 0, 1) and δ = x' - x.

    Nothing waits for the device; ε and α as tensors may change between the replays of a captured graph.

    Returns:
        δ and x' in dtype and layout of ``images``, and whether g holds a NaN; no argument is changed.

    Raises:
        UserError: for an argument that is not as described.
    """
    check(call)
    return PGDStep(*_OP(call))
