"""The running statistics of all layers, updated by one op a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.kernels.core.torch_ops import Registration


@dataclass(frozen=True, slots=True)
class Arguments:
    """What ``torch.ops`` takes: one of each list a layer."""

    running_means: list[Tensor]
    running_vars: list[Tensor]
    counters: list[Tensor]
    means: list[Tensor]
    variances: list[Tensor]
    momentum: float


def update_running_stats(
    running_means: Sequence[Tensor],
    running_vars: Sequence[Tensor],
    counters: Sequence[Tensor],
    means: Sequence[Tensor],
    variances: Sequence[Tensor],
    *,
    momentum: float,
) -> None:
    """All layers of a pass at once, in place: running ← (1 - momentum) · running + momentum · batch; counters + 1.

    Args:
        running_means: One (C,) a layer; changed.
        running_vars: Likewise.
        counters: One int64 () a layer, or none at all; changed.
        means: What :func:`bn_act` returned for each layer.
        variances: Likewise, unbiased.
        momentum: The weight of the batch, as in ``torch.nn.BatchNorm2d``.

    Raises:
        UserError: Where the lists differ in length.
    """
    lengths = [len(tensors) for tensors in (running_means, running_vars, means, variances)]
    if len(set(lengths)) > 1 or len(counters) not in (0, lengths[0]):
        raise UserError(f"lists of {lengths} tensors and {len(counters)} counters; give one of each a layer")
    running = list(running_means), list(running_vars), list(counters)
    _REGISTERED(Arguments(*running, list(means), list(variances), momentum))


@torch.no_grad()
def _update(call: Arguments) -> None:
    if not call.running_means:
        return
    running, batch = call.running_means + call.running_vars, call.means + call.variances
    torch._foreach_mul_(running, 1 - call.momentum)
    torch._foreach_add_(running, batch, alpha=call.momentum)
    if call.counters:
        torch._foreach_add_(call.counters, 1)


def _fake(_: Arguments) -> None:
    return None


_REGISTERED = Registration(returns="()", fake=_fake, writes=("running_means", "running_vars", "counters")).bind(
    "update_running_stats", Arguments, lambda record, _: _update(record())
)
