"""BatchNorm and ReLU with the residual sum that precedes them, in training and in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.kernels.bn_act import autograd, native, reference
from fastiseat.kernels.bn_act.running import update_running_stats
from fastiseat.kernels.core import triton_support
from fastiseat.kernels.core.dispatch import AnyOp, Backend, Op
from fastiseat.kernels.core.torch_ops import Registration

__all__ = ["BatchNormAct", "bn_act", "bn_act_eval", "update_running_stats"]


class BatchNormAct(NamedTuple):
    """What :func:`bn_act` returns."""

    s: Tensor
    """a + b, or a itself where there is no b."""
    y: Tensor
    """relu(bn(s)), in the dtype and layout of s."""
    mean: Tensor
    """Of s over all but the channels, (C,); carries no gradient."""
    var: Tensor
    """Likewise, the unbiased one that running statistics take."""


def _op(name: str, registration: Registration, unfit: Callable[..., str]) -> AnyOp:
    return Op(
        name,
        getattr(reference, name),
        Backend(
            name="triton",
            run=triton_support.late("fastiseat.kernels.bn_act.triton", name),
            unsupported=triton_support.unsupported,
            unfit=triton_support.late("fastiseat.kernels.bn_act.triton", "unfit"),
            only_when_named=triton_support.ONLY_WHEN_NAMED,
        ),
        Backend(name="native", run=getattr(native, name), unsupported=native.unsupported, unfit=unfit),
        registration=registration,
    )


_BACKWARD_OP = _op("bn_act_backward", autograd.TRAIN_BACKWARD, native.unfit)
_EVAL_BACKWARD_OP = _op("bn_act_eval_backward", autograd.EVAL_BACKWARD, native.unfit)
_OP = _op("bn_act", autograd.TRAIN, native.unfit_forward)
_EVAL_OP = _op("bn_act_eval", autograd.EVAL, native.unfit_forward)
_OPS = (_OP, _BACKWARD_OP, _EVAL_OP, _EVAL_BACKWARD_OP)


def bn_act(a: Tensor, b: Tensor | None, weight: Tensor, bias: Tensor, *, eps: float) -> BatchNormAct:
    """Training-mode BatchNorm (Ioffe & Szegedy, 2015) and ReLU of ``a + b``, the statistics those of the batch.

    Args:
        a: (N, C, ...), float32, bfloat16, float16 or float64, in any layout.
        b: What is added, of the shape and dtype of ``a``; None for nothing.
        weight: γ, (C,), float32; float64 where ``a`` is.
        bias: β, likewise.
        eps: Added to the variance.

    Returns:
        s, y, mean and unbiased variance; s and y in the layout of ``a``, contiguous where it has none. From s and y
        gradients reach a, b, weight and bias; the gradients have none of their own.

    Raises:
        UserError: For shapes or dtypes that don't fit, and where a channel has one element: it has no variance.
    """
    _check(a, b, {"weight": weight, "bias": bias})
    if a.numel() <= a.shape[1]:
        raise UserError(
            f"Expected more than 1 value per channel when training, got a of shape {tuple(a.shape)}; "
            "give a larger batch, or use bn_act_eval"
        )
    s, y, mean, _, var = _OP(a, b, weight, bias, eps=eps)
    return BatchNormAct(a if b is None else s, y, mean, var)


def bn_act_eval(
    a: Tensor, b: Tensor | None, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    """The same with given statistics ``mean`` and ``var``, (C,) like ``weight``; returns (s, y).

    They get no gradient. Raises UserError for shapes or dtypes that don't fit.
    """
    _check(a, b, {"weight": weight, "bias": bias, "mean": mean, "var": var})
    s, y = _EVAL_OP(a, b, weight, bias, mean, var, eps=eps)
    return a if b is None else s, y


def _check(a: Tensor, b: Tensor | None, vectors: dict[str, Any]) -> None:
    if not a.is_floating_point() or a.dim() < 2:
        raise UserError(f"a is {a.dtype} of shape {tuple(a.shape)}; floats of shape (N, C, ...) are needed")
    if b is not None and (b.shape != a.shape or b.dtype != a.dtype):
        raise UserError(
            f"b is {b.dtype} of shape {tuple(b.shape)}; it must match a, {a.dtype} of shape {tuple(a.shape)}"
        )
    dtype = torch.float64 if a.dtype == torch.float64 else torch.float32
    for name, vector in vectors.items():
        if vector.shape != a.shape[1:2] or vector.dtype != dtype:
            raise UserError(
                f"{name} is {vector.dtype} of shape {tuple(vector.shape)}; "
                f"{dtype} of shape ({a.shape[1]},) is needed beside a of {a.dtype}"
            )
