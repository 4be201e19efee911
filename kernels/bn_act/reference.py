"""The definition of ``bn_act``: PyTorch's batch norm and ReLU, any floating dtype and layout, differentiable."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastiseat.kernels.bn_act.layout import brought, layout, per_channel


def bn_act(
    a: Tensor, b: Tensor | None, weight: Tensor, bias: Tensor, *, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return s (empty without b), y, the mean, 1/√(var + eps) and the unbiased variance."""
    s = _sum(a, b)
    # With momentum 1 the running statistics are the batch's.
    mean, var = torch.zeros_like(weight), torch.zeros_like(weight)
    y = F.batch_norm(s, mean, var, weight, bias, training=True, momentum=1.0, eps=eps)
    count = s.numel() // s.shape[1]
    rstd = (var * ((count - 1) / count) + eps).rsqrt()
    return a.new_empty(0) if b is None else s, y.relu(), mean, rstd, var


def bn_act_backward(
    dy: Tensor, ds: Tensor | None, s: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a and b alike, of weight and of bias; ``ds`` comes from other uses of s."""
    centred, g, dweight, dbias = _through_relu(dy, s, weight, bias, mean, rstd)
    count = s.numel() // s.shape[1]
    # Mean and variance depend on every element: dx has no part along the constant, nor along s - mean.
    constant, slope = per_channel(dbias / count, s), per_channel(rstd * dweight / count, s)
    return _dx(g - constant - centred * slope, ds, s, weight * rstd), dweight, dbias


def bn_act_eval(
    a: Tensor, b: Tensor | None, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    """Return s (empty without b) and y."""
    s = _sum(a, b)
    y = F.batch_norm(s, mean, var, weight, bias, training=False, eps=eps).relu()
    return a.new_empty(0) if b is None else s, y


def bn_act_eval_backward(
    dy: Tensor,
    ds: Tensor | None,
    s: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    eps: float,
    sums: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same gradients for constant statistics; without ``sums`` those of weight and bias are empty."""
    rstd = (var + eps).rsqrt()
    _, g, dweight, dbias = _through_relu(dy, s, weight, bias, mean, rstd)
    dx = _dx(g, ds, s, weight * rstd)
    return (dx, dweight, dbias) if sums else (dx, weight.new_empty(0), weight.new_empty(0))


def _sum(a: Tensor, b: Tensor | None) -> Tensor:
    a = brought(a, layout(a))
    return a if b is None else a + brought(b, layout(a))


def _through_relu(
    dy: Tensor, s: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """s - mean, the gradient that passes the ReLU, and its sums for weight and bias."""
    s = brought(s, layout(s))
    centred = s.to(weight.dtype) - per_channel(mean, s)
    closed = centred * per_channel(weight * rstd, s) + per_channel(bias, s) <= 0
    g = brought(dy, layout(s)).to(weight.dtype).masked_fill(closed, 0)
    over = [dim for dim in range(s.dim()) if dim != 1]
    return centred, g, (g * centred).sum(over) * rstd, g.sum(over)


def _dx(g: Tensor, ds: Tensor | None, s: Tensor, scale: Tensor) -> Tensor:
    dx = g * per_channel(scale, s)
    return (dx if ds is None else dx + brought(ds, layout(s))).to(s.dtype)
