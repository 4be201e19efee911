"""The definition of ``pgd_step``: any floating dtype, any layout, any device, differentiable."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastiseat.errors import unknown
from fastiseat.kernels.pgd_step.arguments import Arguments


def pgd_step(call: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """``fastiseat.kernels.pgd_step`` in plain PyTorch."""
    images, radius, step = (
        call.images,
        *(_broadcastable(value, call.images) for value in (call.eps, call.step_size)),
    )
    match call.norm:
        case "linf":
            moved = _move_linf(call.delta, call.grad, radius, step)
        case "l2":
            moved = _move_l2(call.delta, call.grad, radius, step)
        case other:
            raise unknown("norm", other, ("linf", "l2"))
    x_adv = (images + moved).clamp(0, 1)
    return x_adv - images, x_adv, call.grad.isnan().any()


def _move_linf(delta: Tensor, grad: Tensor, radius: float | Tensor, step: float | Tensor) -> Tensor:
    moved: Tensor = delta + step * grad.sign().to(delta.dtype)
    return moved.clamp(-radius, radius)  # type: ignore[arg-type] # it takes either kind


def _move_l2(delta: Tensor, grad: Tensor, radius: float | Tensor, step: float | Tensor) -> Tensor:
    """In float64 up to the last rounding: neither squares nor quotients of float32 leave its range."""
    bound, length = _double(radius, delta), _double(step, delta)
    norm = _norms(grad)
    usable = norm.isfinite() & (norm > 0)
    moved = delta.double() + length / torch.where(usable, norm, 1.0) * torch.where(usable, grad.double(), 0.0)
    norm = _norms(moved)
    inside = norm <= bound
    return torch.where(inside, moved, bound / torch.where(inside, 1.0, norm) * moved).to(delta.dtype)


def _norms(values: Tensor) -> Tensor:
    """Of each sample in float64, (m, 1, ...)."""
    rows = values.double().reshape(len(values), math.prod(values.shape[1:]))
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms.reshape(-1, *[1] * (values.dim() - 1))


def _double(value: float | Tensor, like: Tensor) -> Tensor:
    """In float64 the number that ``value`` is in the dtype of ``like``."""
    return (value if isinstance(value, Tensor) else like.new_full((), value)).double()


def _broadcastable(value: float | Tensor, images: Tensor) -> float | Tensor:
    """One number as it is; one a sample as (m, 1, ...), so that it meets ``images`` along the batch."""
    if not isinstance(value, Tensor):
        return value
    return value.to(images.dtype).reshape(-1, *[1] * (images.dim() - 1))
