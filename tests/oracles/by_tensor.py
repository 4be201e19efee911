"""Weight perturbation and update one tensor at a time: what the kernels on flat buffers are held against."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# The released code's guard against a zero gradient.
TINY = 1e-20


@torch.no_grad()
def weight_perturbation(
    weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], *, gamma: float, norm: str
) -> dict[str, Tensor]:
    """ν = γ ‖θ‖ / ‖g‖ · g by name, for the tensors named in ``gradients``; nothing is read by the host.

    ``norm="tensor"`` takes both Frobenius norms of each tensor alone (the released code), ``"global"`` one
    norm over all of ``weights`` and one over all gradients (Eq. 11 as written).
    """
    weight_norms, gradient_norms = _norms(weights), _norms(gradients)
    if norm == "global":
        ratio = gamma * torch.stack(list(weight_norms.values())).norm()
        ratio = ratio / (torch.stack(list(gradient_norms.values())).norm() + TINY)
        return {name: ratio * gradient for name, gradient in gradients.items()}
    return {
        name: gamma * weight_norms[name] / (gradient_norms[name] + TINY) * gradient
        for name, gradient in gradients.items()
    }


def _norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.norm() for name, tensor in tensors.items()}


@torch.no_grad()
def sgd_step(
    weights: Mapping[str, Tensor],
    perturbed: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    momentum_buffers: dict[str, Tensor],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool = False,
) -> None:
    """Update ``weights`` and ``momentum_buffers`` in place; a weight without a gradient is left alone.

    ((θ+ν) - lr·b) - ν is θ - lr·b: ν shows only in the decay, which the released code takes of θ+ν. Written
    this way, lr = 0 leaves θ as it is to the last bit.
    """
    for name, gradient in gradients.items():
        direct = step = gradient.add(perturbed[name], alpha=weight_decay)
        if momentum:
            if name in momentum_buffers:
                step = momentum_buffers[name].mul_(momentum).add_(step)
            else:
                # The first buffer is the gradient itself, as in torch.optim.SGD.
                momentum_buffers[name] = step
        if nesterov:
            step = direct.add(step, alpha=momentum)
        weights[name].sub_(step, alpha=lr)
