"""The running statistics of all layers, updated by one op a pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.kernels.core.torch_ops import Registration


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
    lists = [list(tensors) for tensors in (running_means, running_vars, counters, means, variances)]
    _REGISTERED(*lists, momentum=momentum)


@torch.no_grad()
def _update(
    running_means: list[Tensor],
    running_vars: list[Tensor],
    counters: list[Tensor],
    means: list[Tensor],
    variances: list[Tensor],
    momentum: float,
) -> None:
    if not running_means:
        return
    torch._foreach_mul_(running_means + running_vars, 1 - momentum)
    torch._foreach_add_(running_means + running_vars, means + variances, alpha=momentum)
    if counters:
        torch._foreach_add_(counters, 1)


def _fake(*_: object) -> None:
    return None


_REGISTERED = Registration(
    schema="(Tensor(a!)[] running_means, Tensor(b!)[] running_vars, Tensor(c!)[] counters, Tensor[] means, "
    "Tensor[] variances, float momentum) -> ()",
    fake=_fake,
).bind("update_running_stats", _update)
