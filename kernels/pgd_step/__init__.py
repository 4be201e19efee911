"""One step of projected gradient ascent in the L∞ ball around images in [0, 1]."""

from __future__ import annotations

from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.kernels.dispatch import Backend, Op
from fastiseat.kernels.pgd_step import native, reference

_OP = Op(
    "pgd_step",
    reference.pgd_step,
    Backend(name="native", run=native.pgd_step, unsupported=native.unsupported, unfit=native.unfit),
)
_OPS = (_OP,)


def pgd_step(
    images: Tensor, delta: Tensor, grad: Tensor, *, eps: float | Tensor, step_size: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Ascend, project and clip: ``clamp(δ + α·sign g, -ε, ε)``, then the image kept in [0, 1].

    Args:
        images: x, (m, ...), of any floating dtype.
        delta: δ, the perturbation so far; shape and dtype of ``images``.
        grad: g, the gradient to climb; shape and dtype of ``images``. Where it is 0 or NaN, δ stays.
        eps: ε, the ball's radius: one number, or a tensor of one a sample (m,).
        step_size: α: one number, or a tensor of one a sample (m,).

    Returns:
        The new δ and the new x + δ, both in the memory format of ``images``; no argument is changed.
    """
    _check(images, {"delta": delta, "grad": grad}, {"eps": eps, "step_size": step_size})
    return _OP(images, delta, grad, eps=eps, step_size=step_size)


def _check(images: Tensor, like: dict[str, Tensor], per_sample: dict[str, float | Tensor]) -> None:
    if not images.is_floating_point():
        raise UserError(f"images have dtype {images.dtype}; convert them to floats in [0, 1]")
    if images.dim() == 0:
        raise UserError("images have no dimensions; the first one counts the samples")
    for name, tensor in like.items():
        if tensor.shape != images.shape or tensor.dtype != images.dtype:
            raise UserError(
                f"{name} is {tuple(tensor.shape)} of {tensor.dtype}; it must match images, "
                f"{tuple(images.shape)} of {images.dtype}"
            )
    for name, value in per_sample.items():
        if isinstance(value, Tensor) and value.dim() > 0 and value.shape != images.shape[:1]:
            raise UserError(f"{name} is {tuple(value.shape)}; give one number, or one a sample: ({len(images)},)")
