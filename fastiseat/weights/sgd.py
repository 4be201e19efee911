"""The update of Eq. 18: ``torch.optim.SGD`` applied at θ+ν, with ν taken off again."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


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
) -> None:
    """Update ``weights`` and ``momentum_buffers`` in place; a weight without a gradient is left alone.

    ((θ+ν) - lr·b) - ν is θ - lr·b: ν shows only in the decay, which the released code takes of θ+ν. Written
    this way, lr = 0 leaves θ as it is to the last bit.
    """
    for name, gradient in gradients.items():
        step = gradient.add(perturbed[name], alpha=weight_decay)
        if momentum:
            if name in momentum_buffers:
                step = momentum_buffers[name].mul_(momentum).add_(step)
            else:
                # The first buffer is the gradient itself, as in torch.optim.SGD.
                momentum_buffers[name] = step
        weights[name].sub_(step, alpha=lr)
