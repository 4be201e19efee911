"""What ``pgd_step`` takes."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

from torch import Tensor

from fastiseat.errors import UserError, unknown

Norm = Literal["linf", "l2"]
"""The balls that an implementation may have; each backend says which it serves."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """What :func:`pgd_step` takes.

    Args:
        images: x, (m, ...), of any floating dtype; the backends serve float32.
        delta: δ, the perturbation so far; shape and dtype of ``images``.
        grad: g, the gradient to climb; shape of ``images``, of any floating dtype and layout.
        eps: ε, the ball's radius: one number, also as a tensor of shape () or (1,), or a tensor (m,) of one a sample.
        step_size: α, likewise.
        norm: ``"linf"`` or ``"l2"``.
    """

    images: Tensor
    delta: Tensor
    grad: Tensor
    _: KW_ONLY
    eps: float | Tensor
    step_size: float | Tensor
    norm: Norm = "linf"


def check(call: Arguments) -> None:
    """Raise UserError for an argument that is not as described."""
    _check_tensors(call.images, call.delta, call.grad)
    per_sample = {"eps": call.eps, "step_size": call.step_size}
    for name, value in per_sample.items():
        if isinstance(value, Tensor) and value.shape not in ((), (1,), call.images.shape[:1]):
            raise UserError(
                f"{name} is {tuple(value.shape)}; give one number, or one a sample: ({len(call.images)},)"
            )
    for name, thing in {"delta": call.delta, "grad": call.grad, **per_sample}.items():
        if isinstance(thing, Tensor) and thing.device != call.images.device:
            raise UserError(f"{name} lies on {thing.device}, images on {call.images.device}; move one of them")
    if call.norm not in get_args(Norm):
        raise unknown("norm", call.norm, get_args(Norm))


def _check_tensors(images: Tensor, delta: Tensor, grad: Tensor) -> None:
    if not images.is_floating_point():
        raise UserError(f"images have dtype {images.dtype}; convert them to floats in [0, 1]")
    if images.dim() == 0:
        raise UserError("images have no dimensions; the first one counts the samples")
    if delta.shape != images.shape or delta.dtype != images.dtype:
        raise UserError(
            f"delta is {tuple(delta.shape)} of {delta.dtype}; it must match images, {tuple(images.shape)} of "
            f"{images.dtype}"
        )
    if grad.shape != images.shape or not grad.is_floating_point():
        raise UserError(
            f"grad is {tuple(grad.shape)} of {grad.dtype}; it must have the shape of images, {tuple(images.shape)}, "
            "and a floating dtype"
        )
