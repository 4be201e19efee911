"""The definition of ``bn_act``: PyTorch's batch norm and ReLU, any floating dtype and layout, differentiable."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastiseat.kernels.bn_act.arguments import Backward, Eval, EvalBackward, Forward, Train, TrainBackward
from fastiseat.kernels.bn_act.layout import brought, layout, per_channel


def bn_act(call: Train) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return s (empty without b), y, the mean, 1/√(var + eps) and the unbiased variance."""
    s = _sum(call)
    # With momentum 1 the running statistics are the batch's.
    mean, var = torch.zeros_like(call.weight), torch.zeros_like(call.weight)
    y = F.batch_norm(s, mean, var, call.weight, call.bias, training=True, momentum=1.0, eps=call.eps)
    count = s.numel() // s.shape[1]
    rstd = (var * ((count - 1) / count) + call.eps).rsqrt()
    return s.new_empty(0) if call.b is None else s, brought(y.relu(), layout(s)), mean, rstd, var


def bn_act_backward(call: TrainBackward) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a and b alike, of weight and of bias; ``ds`` comes from other uses of s."""
    centred, g, dweight, dbias = _through_relu(call, call.rstd)
    count = call.s.numel() // call.s.shape[1]
    # Mean and variance depend on every element: dx has no part along the constant, nor along s - mean.
    constant, slope = per_channel(dbias / count, call.s), per_channel(call.rstd * dweight / count, call.s)
    return _dx(g - constant - centred * slope, call, call.rstd), dweight, dbias


def bn_act_eval(call: Eval) -> tuple[Tensor, Tensor]:
    """Return s (empty without b) and y."""
    s = _sum(call)
    y = F.batch_norm(s, call.mean, call.var, call.weight, call.bias, training=False, eps=call.eps).relu()
    return s.new_empty(0) if call.b is None else s, brought(y, layout(s))


def bn_act_eval_backward(call: EvalBackward) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same gradients for constant statistics; without ``sums`` those of weight and bias are empty."""
    rstd = (call.var + call.eps).rsqrt()
    _, g, dweight, dbias = _through_relu(call, rstd)
    dx = _dx(g, call, rstd)
    return (dx, dweight, dbias) if call.sums else (dx, dweight.new_empty(0), dbias.new_empty(0))


def _sum(call: Forward) -> Tensor:
    a = brought(call.a, layout(call.a))
    return a if call.b is None else a + brought(call.b, layout(call.a))


def _through_relu(call: Backward, rstd: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """s - mean, the gradient that passes the ReLU, and its sums for weight and bias."""
    s, weight = brought(call.s, layout(call.s)), call.weight
    centred = s.to(weight.dtype) - per_channel(call.mean, s)
    closed = centred * per_channel(weight * rstd, s) + per_channel(call.bias, s) <= 0
    g = brought(call.dy, layout(s)).to(weight.dtype).masked_fill(closed, 0)
    over = [dim for dim in range(s.dim()) if dim != 1]
    return centred, g, (g * centred).sum(over) * rstd, g.sum(over)


def _dx(g: Tensor, call: Backward, rstd: Tensor) -> Tensor:
    s, ds = call.s, call.ds
    dx = g * per_channel(call.weight * rstd, s)
    dx = dx if ds is None else dx + brought(ds, layout(s))
    return brought(dx.to(s.dtype), layout(s))
