"""How ``bn_act`` and ``bn_act_eval`` appear to PyTorch: schemas, results without values, and gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastiseat.kernels.bn_act.layout import layout
from fastiseat.kernels.core.torch_ops import Registration

_VECTORS = "Tensor weight, Tensor bias, Tensor mean"
_GRADIENTS = "(Tensor dx, Tensor dweight, Tensor dbias)"


def _fake_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=layout(x))


def _fake_train(a: Tensor, b: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
    s = a.new_empty(0) if b is None else _fake_like(a)
    return s, _fake_like(a), *(torch.empty_like(weight) for _ in range(3))


def _fake_eval(a: Tensor, b: Tensor | None, *_: Any) -> tuple[Tensor, Tensor]:
    return a.new_empty(0) if b is None else _fake_like(a), _fake_like(a)


def _fake_train_backward(dy: Tensor, ds: Tensor | None, s: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return _fake_like(s), torch.empty_like(weight), torch.empty_like(weight)


def _fake_eval_backward(
    dy: Tensor, ds: Tensor | None, s: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    size = len(weight) if rest[-1] else 0
    return _fake_like(s), weight.new_empty(size), weight.new_empty(size)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    a, b, weight, bias, *given = inputs
    s, _, *statistics = output
    ctx.mark_non_differentiable(*statistics, *([s] if b is None else []))
    ctx.set_materialize_grads(False)
    ctx.has_b = b is not None
    ctx.eps = given[-1]
    # Without b the sum is a itself, which the op must not return.
    ctx.save_for_backward(s if ctx.has_b else a, weight, bias, *(statistics[:2] or given[:2]))


@once_differentiable
def _train_backward(ctx: Any, ds: Tensor | None, dy: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return ds, ds, None, None, None
    dx, dweight, dbias = torch.ops.fastiseat.bn_act_backward.default(dy, ds, *ctx.saved_tensors)
    return dx, dx if ctx.has_b else None, dweight, dbias, None


@once_differentiable
def _eval_backward(ctx: Any, ds: Tensor | None, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    """Sums for weight and bias are taken only where they are wanted."""
    nothing = (None, None, None)
    if dy is None:
        return ds, ds, None, None, *nothing
    sums = any(ctx.needs_input_grad[2:4])
    backward = torch.ops.fastiseat.bn_act_eval_backward.default
    dx, *vectors = backward(dy, ds, *ctx.saved_tensors, ctx.eps, sums)
    return dx, dx if ctx.has_b else None, *(vectors if sums else (None, None)), *nothing


TRAIN = Registration(
    schema="(Tensor a, Tensor? b, Tensor weight, Tensor bias, float eps) "
    "-> (Tensor s, Tensor y, Tensor mean, Tensor rstd, Tensor var)",
    fake=_fake_train,
    setup_context=_setup,
    backward=_train_backward,
)
TRAIN_BACKWARD = Registration(
    schema=f"(Tensor dy, Tensor? ds, Tensor s, {_VECTORS}, Tensor rstd) -> {_GRADIENTS}",
    fake=_fake_train_backward,
)
EVAL = Registration(
    schema=f"(Tensor a, Tensor? b, {_VECTORS}, Tensor var, float eps) -> (Tensor s, Tensor y)",
    fake=_fake_eval,
    setup_context=_setup,
    backward=_eval_backward,
)
EVAL_BACKWARD = Registration(
    schema=f"(Tensor dy, Tensor? ds, Tensor s, {_VECTORS}, Tensor var, float eps, bool sums) -> {_GRADIENTS}",
    fake=_fake_eval_backward,
)
