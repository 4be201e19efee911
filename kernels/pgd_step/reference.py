"""The definition of ``pgd_step``: any floating dtype, any layout, any device, differentiable."""

from __future__ import annotations

from torch import Tensor


def pgd_step(
    images: Tensor, delta: Tensor, grad: Tensor, *, eps: float | Tensor, step_size: float | Tensor
) -> tuple[Tensor, Tensor]:
    """``fastiseat.kernels.pgd_step`` in plain PyTorch."""
    radius, step = _broadcastable(eps, images), _broadcastable(step_size, images)
    moved = (delta + step * grad.sign()).clamp(-radius, radius)  # type: ignore[arg-type] # it takes either kind
    x_adv = (images + moved).clamp(0, 1)
    return x_adv - images, x_adv


def _broadcastable(value: float | Tensor, images: Tensor) -> float | Tensor:
    """One number as it is; one a sample as (m, 1, ...), so that it meets ``images`` along the batch."""
    if not isinstance(value, Tensor):
        return value
    return value.to(images.dtype).reshape(-1, *[1] * (images.dim() - 1))
