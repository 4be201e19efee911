"""The definition of ``bn_act``: PyTorch's batch norm and ReLU, any floating dtype and layout, differentiable."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bn_act(
    a: Tensor, b: Tensor | None, weight: Tensor, bias: Tensor, *, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``fastiseat.kernels.bn_act`` in plain PyTorch."""
    s = a if b is None else a + b
    # With momentum 1 the running statistics are the batch's.
    mean, var = torch.zeros_like(weight), torch.zeros_like(weight)
    y = F.batch_norm(s, mean, var, weight, bias, training=True, momentum=1.0, eps=eps)
    return s, y.relu(), mean, var


def bn_act_eval(
    a: Tensor, b: Tensor | None, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    """``fastiseat.kernels.bn_act_eval`` in plain PyTorch."""
    s = a if b is None else a + b
    return s, F.batch_norm(s, mean, var, weight, bias, training=False, eps=eps).relu()
