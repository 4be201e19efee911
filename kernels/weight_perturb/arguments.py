"""What ``weight_perturb`` takes."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

from torch import Tensor

from fastiseat.errors import UserError, unknown
from fastiseat.kernels.core import flat
from fastiseat.kernels.core.segments import BLOCK, Segments

Norm = Literal["tensor", "global"]


@dataclass(frozen=True, slots=True)
class Arguments:
    """What :func:`weight_perturb` takes.

    Args:
        weights: θ, (P,), float32 or float64.
        grad: g, (P,), float32, bfloat16, float16 or the dtype of θ.
        segments: which tensor an element is of; the padding holds zeros in both buffers.
        gamma: γ, a number or a tensor of one on the device.
        norm: ``"tensor"`` (the released code) or ``"global"`` (Eq. 11 as written).
        out: receives θ + ν, (P,), of any dtype that ``grad`` may have. With ``out_full`` its first part (Q,),
            Q a multiple of 1,024.
        out_full: receives the rest, (P - Q,), in the dtype of θ.
    """

    weights: Tensor
    grad: Tensor
    segments: Segments
    _: KW_ONLY
    gamma: float | Tensor
    norm: Norm = "tensor"
    out: Tensor
    out_full: Tensor | None = None


def check(call: Arguments) -> None:
    """Raise UserError for an argument that is not as described."""
    flat.check_weights(call.weights, call.segments)
    flat.check_like(call.weights, {"grad": call.grad})
    flat.check_numbers(call.weights.device, {"gamma": call.gamma})
    if call.norm not in get_args(Norm):
        raise unknown("norm", call.norm, get_args(Norm))
    _check_out(call.weights, call.out, call.out_full)
    flat.check_apart({"out": call.out, "out_full": call.out_full}, {"weights": call.weights, "grad": call.grad})


def _check_out(weights: Tensor, out: Tensor, out_full: Tensor | None) -> None:
    lengths = [len(weights)] if out_full is None else [len(out), len(weights) - len(out)]
    for name, buffer, length in zip(("out", "out_full"), (out, out_full), lengths, strict=False):
        if buffer is not None and (buffer.shape != (length,) or not buffer.is_contiguous() or length % BLOCK):
            raise UserError(
                f"{name} is of shape {tuple(buffer.shape)}; a contiguous buffer is needed, and out and out_full "
                f"together have {len(weights)} elements, in whole blocks of {BLOCK}"
            )
        flat.check_device(name, buffer, weights.device)
    if not out.is_floating_point():
        raise UserError(f"out is {out.dtype}; a floating dtype is needed")
    if out_full is not None and out_full.dtype != weights.dtype:
        raise UserError(f"out_full is {out_full.dtype}; it must be {weights.dtype} as weights are")
