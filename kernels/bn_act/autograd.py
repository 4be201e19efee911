"""How ``bn_act`` and ``bn_act_eval`` appear to PyTorch: schemas, results without values, and gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastiseat.kernels.bn_act.arguments import Backward, Eval, EvalBackward, Forward, Train, TrainBackward
from fastiseat.kernels.bn_act.layout import layout
from fastiseat.kernels.core.torch_ops import Registration

_GRADIENTS = "(Tensor dx, Tensor dweight, Tensor dbias)"


def _fake_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=layout(x))


def _fake_sum(call: Forward) -> Tensor:
    return call.a.new_empty(0) if call.b is None else _fake_like(call.a)


def _fake_train(call: Train) -> tuple[Tensor, ...]:
    return _fake_sum(call), _fake_like(call.a), *(torch.empty_like(call.weight) for _ in range(3))


def _fake_eval(call: Eval) -> tuple[Tensor, Tensor]:
    return _fake_sum(call), _fake_like(call.a)


def _fake_backward(call: Backward) -> tuple[Tensor, ...]:
    size = len(call.weight) if isinstance(call, TrainBackward) or call.sums else 0
    return _fake_like(call.s), call.weight.new_empty(size), call.weight.new_empty(size)


def _setup(ctx: Any, call: Forward, output: tuple[Tensor, ...]) -> None:
    s, _, *statistics = output
    ctx.mark_non_differentiable(*statistics, *([s] if call.b is None else []))
    ctx.set_materialize_grads(False)
    ctx.has_b = call.b is not None
    ctx.eps = call.eps
    given = [call.mean, call.var] if isinstance(call, Eval) else statistics[:2]
    # Without b the sum is a itself, which the op must not return.
    ctx.save_for_backward(s if ctx.has_b else call.a, call.weight, call.bias, *given)


def _train_backward(ctx: Any, ds: Tensor | None, dy: Tensor | None, *_: None) -> dict[str, Tensor | None]:
    if dy is None:
        return {"a": ds, "b": ds}
    dx, dweight, dbias = torch.ops.fastiseat.bn_act_backward.default(dy, ds, *ctx.saved_tensors)
    return {"a": dx, "b": dx if ctx.has_b else None, "weight": dweight, "bias": dbias}


def _eval_backward(ctx: Any, ds: Tensor | None, dy: Tensor | None) -> dict[str, Tensor | None]:
    """Sums for weight and bias are taken only where they are wanted."""
    if dy is None:
        return {"a": ds, "b": ds}
    sums = any(ctx.needs_input_grad[2:4])
    backward = torch.ops.fastiseat.bn_act_eval_backward.default
    dx, dweight, dbias = backward(dy, ds, *ctx.saved_tensors, ctx.eps, sums)
    found = {"a": dx, "b": dx if ctx.has_b else None}
    return found | {"weight": dweight, "bias": dbias} if sums else found


TRAIN = Registration(
    returns="(Tensor s, Tensor y, Tensor mean, Tensor rstd, Tensor var)",
    fake=_fake_train,
    setup_context=_setup,
    backward=_train_backward,
    once=True,
)
TRAIN_BACKWARD: Registration[TrainBackward] = Registration(returns=_GRADIENTS, fake=_fake_backward)
EVAL = Registration(
    returns="(Tensor s, Tensor y)", fake=_fake_eval, setup_context=_setup, backward=_eval_backward, once=True
)
EVAL_BACKWARD: Registration[EvalBackward] = Registration(returns=_GRADIENTS, fake=_fake_backward)
