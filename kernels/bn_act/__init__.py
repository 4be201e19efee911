"""BatchNorm and ReLU with the residual sum that precedes them, in training and in evaluation mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastiseat.kernels.bn_act import reference
from fastiseat.kernels.dispatch import Op


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


_OP = Op("bn_act", reference.bn_act)
_EVAL_OP = Op("bn_act_eval", reference.bn_act_eval)
_OPS = (_OP, _EVAL_OP)


def bn_act(a: Tensor, b: Tensor | None, weight: Tensor, bias: Tensor, *, eps: float) -> BatchNormAct:
    """Training-mode BatchNorm and ReLU of ``a + b`` (N, C, ...)."""
    return BatchNormAct(*_OP(a, b, weight, bias, eps=eps))


def bn_act_eval(
    a: Tensor, b: Tensor | None, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    """The same with the running statistics; returns (s, y)."""
    return _EVAL_OP(a, b, weight, bias, mean, var, eps=eps)


@torch.no_grad()
def update_running_stats(
    running_means: Sequence[Tensor],
    running_vars: Sequence[Tensor],
    counters: Sequence[Tensor],
    means: Sequence[Tensor],
    variances: Sequence[Tensor],
    *,
    momentum: float,
) -> None:
    """All layers of a pass at once, in place: running ← (1 - momentum) · running + momentum · batch; counters + 1."""
    for running, batch in ((running_means, means), (running_vars, variances)):
        torch._foreach_mul_(list(running), 1 - momentum)
        torch._foreach_add_(list(running), list(batch), alpha=momentum)
    torch._foreach_add_(list(counters), 1)
