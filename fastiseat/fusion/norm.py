"""BatchNorm and ReLU in one op, and running statistics that are written once a pass for all layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import local
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastiseat.kernels import bn_act, bn_act_eval, update_running_stats

_HALF = (torch.float16, torch.bfloat16)

Addends = tuple[Tensor, Tensor | None]
"""Two tensors whose sum is meant, left to the next BatchNorm to add; or one alone."""


class BatchNormReLU(nn.BatchNorm2d):
    """relu(batch norm(a + b)), affine and with running statistics; ``nn.BatchNorm2d``'s state and semantics.

    Args:
        num_features: channels.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)

    def forward(self, a: Tensor, b: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(a + b, relu(bn(a + b))), both (N, C, H, W) and of one dtype; without ``b`` of a alone."""
        return norm_relu(self, a, b)


def norm_relu(bn: nn.BatchNorm1d | nn.BatchNorm2d, a: Tensor, b: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What :class:`BatchNormReLU` computes, by the tensors of any affine BatchNorm with running statistics."""
    bn._check_input_dim(a)
    s, y, *batch = normalise(a, b, norm_tensors(bn), eps=bn.eps)
    if batch:
        remember(bn, *batch)
    return s, y


def norm_tensors(bn: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, ...]:
    """What a pass reads: weight and bias; in evaluation mode the running statistics too."""
    if bn.training:
        return bn.weight, bn.bias
    assert bn.running_mean is not None and bn.running_var is not None
    tensors = bn.weight, bn.bias, bn.running_mean, bn.running_var
    # The op computes in float32 beside images in half precision; of a network in half precision itself too.
    return tuple([tensor.float() if tensor.dtype in _HALF else tensor for tensor in tensors])


def normalise(a: Tensor, b: Tensor | None, tensors: tuple[Tensor, ...], *, eps: float) -> tuple[Tensor, ...]:
    """s, y and the mean and variance of the batch by weight and bias; s and y by statistics that are given as well."""
    if len(tensors) == 2:
        return bn_act(a, b, *tensors, eps=eps)
    return bn_act_eval(a, b, *tensors, eps=eps)


class _Batch(NamedTuple):
    """A layer's statistics of a batch, and where they belong: the tensors in place when the layer ran."""

    running_mean: Tensor
    running_var: Tensor
    counter: Tensor
    mean: Tensor
    var: Tensor
    momentum: float | None


class _Thread(local):
    """A thread's passes have nothing to do with another's."""

    def __init__(self) -> None:
        self.batches: dict[int, _Batch] | None = None


# Thread-local and no ContextVar, which torch.compile does not know.
_THREAD = _Thread()


@contextmanager
def one_pass() -> Iterator[None]:
    """A network's forward: its layers' running statistics are written at the end, by a few ops for all of them.

    After an exception none is written. A layer outside of any pass writes its own at once.
    """
    batches: dict[int, _Batch] = {}
    # The outer one is put aside: a fused network may lie within another.
    outer, _THREAD.batches = _THREAD.batches, batches
    try:
        yield
        _write(batches)
    finally:
        _THREAD.batches = outer


def remember(bn: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, var: Tensor) -> None:
    """Have the layer's running statistics take those of a batch, at the end of the pass or at once outside of any."""
    running_mean, running_var, counter = bn.running_mean, bn.running_var, bn.num_batches_tracked
    assert running_mean is not None and running_var is not None and counter is not None
    batch = _Batch(running_mean, running_var, counter, mean, var, bn.momentum)
    batches = _THREAD.batches
    if batches is None:
        _write({0: batch})
        return
    # By their memory, which layers may share. A compiler would compile anew for each copy of the buffers.
    key = id(bn) if torch.compiler.is_compiling() else id(running_mean)
    if key in batches:  # a second turn in a pass: first come, first written
        _write(batches)
        batches.clear()
    batches[key] = batch


def _write(batches: dict[int, _Batch]) -> None:
    # One launch a momentum for all layers: by themselves they'd be three small ones a layer, which the host is
    # slower to launch than a GPU to run.
    by_momentum: dict[float | None, list[_Batch]] = {}
    for batch in batches.values():
        by_momentum.setdefault(batch.momentum, []).append(batch)
    for momentum, group in by_momentum.items():
        if momentum is None:
            _average(group)
        else:
            means, variances, counters, *batch_statistics = list(zip(*group, strict=True))[:5]
            update_running_stats(means, variances, counters, *batch_statistics, momentum=momentum)


@torch.no_grad()
def _average(group: list[_Batch]) -> None:
    """``momentum=None``: the mean of all batches so far, as :func:`torch.optim.swa_utils.update_bn` wants it."""
    for batch in group:
        batch.counter.add_(1)
        for running, of_batch in ((batch.running_mean, batch.mean), (batch.running_var, batch.var)):
            running.add_((of_batch - running) / batch.counter)
