"""BatchNorm and ReLU with the residual sum that precedes them, in training and in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from fastiseat.kernels.bn_act import autograd, native, reference
from fastiseat.kernels.bn_act.arguments import Eval, EvalBackward, Train, TrainBackward, check_eval, check_train
from fastiseat.kernels.bn_act.running import update_running_stats
from fastiseat.kernels.core import triton_support
from fastiseat.kernels.core.dispatch import AnyOp, Backend, Op
from fastiseat.kernels.core.signature import takes
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


def _op(name: str, arguments: type[Any], registration: Registration[Any], unfit: Callable[[Any], str]) -> AnyOp:
    return Op(
        name,
        arguments,
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


_BACKWARD_OP = _op("bn_act_backward", TrainBackward, autograd.TRAIN_BACKWARD, native.unfit)
_EVAL_BACKWARD_OP = _op("bn_act_eval_backward", EvalBackward, autograd.EVAL_BACKWARD, native.unfit)
_OP = _op("bn_act", Train, autograd.TRAIN, native.unfit_forward)
_EVAL_OP = _op("bn_act_eval", Eval, autograd.EVAL, native.unfit_forward)
_OPS = (_OP, _BACKWARD_OP, _EVAL_OP, _EVAL_BACKWARD_OP)


@takes(Train)
def bn_act(call: Train) -> BatchNormAct:
    """Training-mode BatchNorm (Ioffe & Szegedy, 2015) and ReLU of ``a + b``, the statistics those of the batch.

    Returns:
        s, y, mean and unbiased variance; s and y in the layout of ``a``, contiguous where it has none. From s and y
        gradients reach a, b, weight and bias; the gradients have none of their own.

    Raises:
        UserError: For shapes or dtypes that don't fit, and where a channel has one element: it has no variance.
    """
    check_train(call)
    s, y, mean, _, var = _OP(call)
    return BatchNormAct(call.a if call.b is None else s, y, mean, var)


@takes(Eval)
def bn_act_eval(call: Eval) -> tuple[Tensor, Tensor]:
    """The same with given statistics; returns (s, y). Raises UserError for shapes or dtypes that don't fit."""
    check_eval(call)
    s, y = _EVAL_OP(call)
    return call.a if call.b is None else s, y
