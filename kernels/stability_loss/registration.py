"""``torch.ops.fastiseat.stability_loss``: the forward has the gradients, the backward scales them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.kernels.core.torch_ops import Registration
from fastiseat.kernels.stability_loss.arguments import Arguments
from fastiseat.kernels.stability_loss.reference import Results, as_full


def _fake(call: Arguments) -> Results:
    like, m, num_classes = as_full(call.logits), *call.logits.shape
    return tuple(like.new_empty(shape) for shape in ((), (m,), (m, num_classes)) for _ in range(3))


def _setup_context(ctx: Any, call: Arguments, output: Results) -> None:
    ctx.dtype = call.logits.dtype
    ctx.save_for_backward(*output[6:])
    ctx.mark_non_differentiable(*output[3:])
    ctx.set_materialize_grads(False)  # 0 · inf is no 0: a term that nobody uses must not count


def _backward(ctx: Any, total: Tensor | None, *others: Tensor | None) -> dict[str, Tensor | None]:
    if torch.is_grad_enabled():
        raise UserError(
            "stability_loss is differentiable once where a kernel serves it, and create_graph=True asks for more; "
            "FASTISEAT_KERNELS=reference gives second derivatives"
        )
    of_adversarial, of_stability, of_stability_clean = ctx.saved_tensors
    for_adversarial, for_stability = (_sum(total, other) for other in others[:2])
    for_logits = _sum(_scaled(for_adversarial, of_adversarial), _scaled(for_stability, of_stability))
    for_clean = _scaled(for_stability, of_stability_clean)
    return {"logits": _cast(for_logits, ctx.dtype), "clean_logits": _cast(for_clean, ctx.dtype)}


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _scaled(factor: Tensor | None, gradient: Tensor) -> Tensor | None:
    return None if factor is None else factor * gradient


def _cast(gradient: Tensor | None, dtype: Any) -> Tensor | None:
    return None if gradient is None else gradient.to(dtype)


REGISTRATION = Registration(
    returns=f"({', '.join(['Tensor'] * 9)})", fake=_fake, setup_context=_setup_context, backward=_backward
)
