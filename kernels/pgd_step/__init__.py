"""One step of projected gradient ascent in a ball around images in [0, 1]."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from fastiseat.errors import UserError, unknown
from fastiseat.kernels.core import triton_support
from fastiseat.kernels.core.dispatch import Backend, Op
from fastiseat.kernels.core.torch_ops import Registration
from fastiseat.kernels.pgd_step import native, reference
from fastiseat.kernels.pgd_step.arrays import FORMATS, empty_network_input, only_float32
from fastiseat.kernels.pgd_step.arrays import unfit as arrays_unfit

Norm = Literal["linf", "l2"]


class PGDStep(NamedTuple):
    """What :func:`pgd_step` returns."""

    delta: Tensor
    """The new δ; dtype and layout of the images."""
    x_adv: Tensor
    """x' = clamp(x + δ, 0, 1), likewise."""
    network_input: Tensor
    """x' in the dtype and memory format that were asked for."""
    nan_grad: Tensor
    """bool (): whether the gradient holds a NaN."""


def _triton_unfit(images: Tensor, delta: Tensor, grad: Tensor, **more: Any) -> str:
    numbers = (more[name] for name in ("eps", "step_size") if isinstance(more[name], Tensor))
    problem = triton_support.unfit(images, delta, grad, *numbers)
    return problem or arrays_unfit(images, grad, more.get("network_dtype"))


def _fake(
    images: Tensor,
    delta: Tensor,
    grad: Tensor,
    eps: float,
    step_size: float,
    norm: str,
    network_dtype: torch.dtype | None,
    network_format: torch.memory_format | None,
    eps_tensor: Tensor | None = None,
    step_size_tensor: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x_adv = torch.empty_like(images)
    network = empty_network_input(x_adv, network_dtype, network_format)
    return torch.empty_like(images), x_adv, network, images.new_empty((), dtype=torch.bool)


_OP = Op(
    "pgd_step",
    reference.pgd_step,
    Backend(
        name="triton",
        run=triton_support.late("fastiseat.kernels.pgd_step.triton", "pgd_step"),
        unsupported=only_float32(triton_support.unsupported),
        unfit=_triton_unfit,
        only_when_named=triton_support.ONLY_WHEN_NAMED,
    ),
    Backend(name="native", run=native.pgd_step, unsupported=native.unsupported, unfit=native.unfit),
    registration=Registration(
        schema="(Tensor images, Tensor delta, Tensor grad, float eps, float step_size, str norm, "
        "ScalarType? network_dtype, MemoryFormat? network_format, Tensor? eps_tensor=None, "
        "Tensor? step_size_tensor=None) -> (Tensor, Tensor, Tensor, Tensor)",
        fake=_fake,
        numbers=("eps", "step_size"),
    ),
)
_OPS = (_OP,)


def pgd_step(
    images: Tensor,
    delta: Tensor,
    grad: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: Norm = "linf",
    network_dtype: torch.dtype | None = None,
    network_format: torch.memory_format | None = None,
) -> PGDStep:
    """Ascend, project and clip (Madry et al., 2018).

    In the L∞ ball ``clamp(δ + α·sign g, -ε, ε)``, where sign 0 and sign NaN are 0. In the L2 ball
    ``δ + α·g/‖g‖₂``, then times ``min(1, ε/‖δ‖₂)``, sample by sample and in float64 up to the last rounding; a
    sample whose ‖g‖₂ is 0 or not finite takes no step. Then x' = clamp(x + δ, 0, 1) and δ = x' - x.

    Nothing waits for the device; ε and α as tensors may change between the replays of a captured graph.

    Args:
        images: x, (m, ...), of any floating dtype; the backends serve float32.
        delta: δ, the perturbation so far; shape and dtype of ``images``.
        grad: g, the gradient to climb; shape of ``images``, of any floating dtype and layout.
        eps: ε, the ball's radius: one number, also as a tensor of shape () or (1,), or a tensor (m,) of one a sample.
        step_size: α, likewise.
        norm: ``"linf"`` or ``"l2"``.
        network_dtype: float32, float64, bfloat16 or float16, of ``network_input``; by default that of ``images``.
        network_format: its memory format; by default that of ``images``.

    Returns:
        δ and x' in dtype and layout of ``images``, x' as the network reads it (``x_adv`` itself where those are its
        own), and whether g holds a NaN; no argument is changed.

    Raises:
        UserError: for an argument that is not as described.
    """
    _check(images, delta, grad, {"eps": eps, "step_size": step_size})
    _check_choices(images, norm, network_dtype, network_format)
    new_delta, x_adv, network_input, nan_grad = _OP(
        images,
        delta,
        grad,
        eps=eps,
        step_size=step_size,
        norm=norm,
        network_dtype=network_dtype,
        network_format=network_format,
    )
    itself = network_input.shape != x_adv.shape  # an op may not return one tensor twice
    return PGDStep(new_delta, x_adv, x_adv if itself else network_input, nan_grad)


def _check(images: Tensor, delta: Tensor, grad: Tensor, per_sample: dict[str, float | Tensor]) -> None:
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
    for name, value in per_sample.items():
        if isinstance(value, Tensor) and value.shape not in ((), (1,), images.shape[:1]):
            raise UserError(f"{name} is {tuple(value.shape)}; give one number, or one a sample: ({len(images)},)")
    for name, thing in {"delta": delta, "grad": grad, **per_sample}.items():
        if isinstance(thing, Tensor) and thing.device != images.device:
            raise UserError(f"{name} lies on {thing.device}, images on {images.device}; move one of them")


def _check_choices(
    images: Tensor, norm: str, dtype: torch.dtype | None, memory_format: torch.memory_format | None
) -> None:
    if norm not in get_args(Norm):
        raise unknown("norm", norm, get_args(Norm))
    if dtype is not None and not dtype.is_floating_point:
        raise UserError(f"network_dtype={dtype} is no floating dtype; choose torch.bfloat16 or another")
    if memory_format is not None and FORMATS.get(memory_format, 0) not in (None, images.dim()):
        raise UserError(f"network_format={memory_format} does not exist for images of {images.dim()} dimensions")
