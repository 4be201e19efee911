"""Adversarial weight perturbation of all parameters at once, in a flat buffer."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from fastiseat.errors import UserError, unknown
from fastiseat.kernels.core import triton_support
from fastiseat.kernels.core.dispatch import Backend, Op
from fastiseat.kernels.core.flat import check_apart, check_device, check_like, check_numbers, check_weights
from fastiseat.kernels.core.segments import BLOCK, Segments
from fastiseat.kernels.core.torch_ops import Registration
from fastiseat.kernels.weight_perturb import native, reference

Norm = Literal["tensor", "global"]


def _fake(
    weights: Tensor, grad: Tensor, block_segment: Tensor, first_block: Tensor, perturbed: Tensor, *_: object
) -> Tensor:
    return weights.new_empty(perturbed.shape)


_OP = Op(
    "weight_perturb",
    reference.weight_perturb,
    Backend(
        name="triton",
        run=triton_support.late("fastiseat.kernels.weight_perturb.triton", "weight_perturb"),
        unsupported=triton_support.unsupported,
        unfit=native.unfit,
        only_when_named=triton_support.ONLY_WHEN_NAMED,
    ),
    Backend(name="native", run=native.weight_perturb, unsupported=native.unsupported, unfit=native.unfit),
    registration=Registration(
        schema="(Tensor weights, Tensor grad, Tensor block_segment, Tensor first_block, Tensor perturbed, "
        "float gamma, str norm, Tensor(a!) out, Tensor(b!)? out_full, Tensor? gamma_tensor=None) -> Tensor",
        fake=_fake,
        numbers=("gamma",),
    ),
)
_OPS = (_OP,)


def weight_perturb(
    weights: Tensor,
    grad: Tensor,
    segments: Segments,
    *,
    gamma: float | Tensor,
    norm: Norm = "tensor",
    out: Tensor,
    out_full: Tensor | None = None,
) -> Tensor:
    """θ + ν with ν = γ ‖θ‖ / (‖g‖ + 1e-20) · g, Frobenius norms of each tensor alone or of all that are perturbed.

    Wu et al., 2020; Eq. 11 of the ISEAT paper. Norms and their ratio are taken in float64, the sum in the dtype of
    θ. What is not finite in g spreads as the formula says; a tensor that is not perturbed comes out as it went in,
    whatever its gradient. Sums have one order, so that equal inputs give equal bits. Nothing waits for the device.

    Args:
        weights: θ, (P,), float32 or float64.
        grad: g, (P,), float32, bfloat16, float16 or the dtype of θ.
        segments: which tensor an element is of; the padding holds zeros in both buffers.
        gamma: γ, a number or a tensor of one on the device.
        norm: ``"tensor"`` (the released code) or ``"global"`` (Eq. 11 as written).
        out: receives θ + ν, (P,), of any dtype that ``grad`` may have. With ``out_full`` its first part (Q,),
            Q a multiple of 1,024.
        out_full: receives the rest, (P - Q,), in the dtype of θ.

    Returns:
        ratio, (S,), of the dtype of θ: what each tensor's g is multiplied with, 0 for those not perturbed.

    Raises:
        UserError: for an argument that is not as described.
    """
    check_weights(weights, segments)
    check_like(weights, {"grad": grad})
    check_numbers(weights.device, {"gamma": gamma})
    if norm not in get_args(Norm):
        raise unknown("norm", norm, get_args(Norm))
    _check_out(weights, out, out_full)
    check_apart({"out": out, "out_full": out_full}, {"weights": weights, "grad": grad})
    ratio: Tensor = _OP(
        weights,
        grad,
        segments.block_segment,
        segments.first_block,
        segments.perturbed,
        gamma=gamma,
        norm=norm,
        out=out,
        out_full=out_full,
    )
    return ratio


def _check_out(weights: Tensor, out: Tensor, out_full: Tensor | None) -> None:
    lengths = [len(weights)] if out_full is None else [len(out), len(weights) - len(out)]
    for name, buffer, length in zip(("out", "out_full"), (out, out_full), lengths, strict=False):
        if buffer is not None and (buffer.shape != (length,) or not buffer.is_contiguous() or length % BLOCK):
            raise UserError(
                f"{name} is of shape {tuple(buffer.shape)}; a contiguous buffer is needed, and out and out_full "
                f"together have {len(weights)} elements, in whole blocks of {BLOCK}"
            )
        check_device(name, buffer, weights.device)
    if not out.is_floating_point():
        raise UserError(f"out is {out.dtype}; a floating dtype is needed")
    if out_full is not None and out_full.dtype != weights.dtype:
        raise UserError(f"out_full is {out_full.dtype}; it must be {weights.dtype} as weights are")
