"""What ``bn_act``, ``bn_act_eval`` and their gradients take."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from fastiseat.errors import UserError


@dataclass(frozen=True, slots=True)
class Train:
    """What :func:`bn_act` takes.

    Args:
        a: (N, C, ...), float32, bfloat16, float16 or float64, in any layout.
        b: What is added, of the shape and dtype of ``a``; None for nothing.
        weight: γ, (C,), float32; float64 where ``a`` is.
        bias: β, likewise.
        eps: Added to the variance.
    """

    a: Tensor
    b: Tensor | None
    weight: Tensor
    bias: Tensor
    _: KW_ONLY
    eps: float


@dataclass(frozen=True, slots=True)
class Eval:
    """What :func:`bn_act_eval` takes.

    Args:
        a: As :func:`bn_act` takes it.
        b: Likewise.
        weight: Likewise.
        bias: Likewise.
        mean: The given mean, (C,) like ``weight``; gets no gradient.
        var: The given variance, likewise.
        eps: Added to the variance.
    """

    a: Tensor
    b: Tensor | None
    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    _: KW_ONLY
    eps: float


@dataclass(frozen=True, slots=True)
class TrainBackward:
    """What the gradient of :func:`bn_act` takes: those of y and of other uses of s, and what the forward pass found."""

    dy: Tensor
    ds: Tensor | None
    s: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor
    rstd: Tensor

    @property
    def vectors(self) -> tuple[Tensor, ...]:
        """Those over the channels."""
        return self.weight, self.bias, self.mean, self.rstd


@dataclass(frozen=True, slots=True)
class EvalBackward:
    """What the gradient of :func:`bn_act_eval` takes; without ``sums`` none of weight and bias is wanted."""

    dy: Tensor
    ds: Tensor | None
    s: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    _: KW_ONLY
    eps: float
    sums: bool

    @property
    def vectors(self) -> tuple[Tensor, ...]:
        """Those over the channels."""
        return self.weight, self.bias, self.mean, self.var


Forward = Train | Eval
Backward = TrainBackward | EvalBackward


def check_train(call: Train) -> None:
    """Raise UserError for an argument that is not as described, and where a channel has one element: no variance."""
    _check(call, {"weight": call.weight, "bias": call.bias})
    if call.a.numel() <= call.a.shape[1]:
        raise UserError(
            f"Expected more than 1 value per channel when training, got a of shape {tuple(call.a.shape)}; "
            "give a larger batch, or use bn_act_eval"
        )


def check_eval(call: Eval) -> None:
    """Raise UserError for an argument that is not as described."""
    _check(call, {"weight": call.weight, "bias": call.bias, "mean": call.mean, "var": call.var})


def _check(call: Forward, vectors: dict[str, Tensor]) -> None:
    a, b = call.a, call.b
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
