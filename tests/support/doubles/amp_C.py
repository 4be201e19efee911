"""Stands in for Apex's extension of that name: what its kernels compute, in float32 by places in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def _in_memory(tensor: Tensor) -> Tensor:
    """The elements by their place in memory, which is all that a kernel sees; they can be written to."""
    dense = tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)
    assert dense, "A tensor was not contiguous."
    assert tensor.dtype in (torch.float32, torch.float16), f"not implemented for {tensor.dtype}"
    return tensor.detach().as_strided((tensor.numel(),), (1,))


def _check(chunk_size: int, noop_flag: Tensor, tensor_lists: list[list[Tensor]]) -> None:
    assert type(chunk_size) is int
    assert noop_flag.dtype == torch.int32
    assert len({len(tensors) for tensors in tensor_lists}) == 1
    for together in zip(*tensor_lists, strict=True):
        assert len({tensor.numel() for tensor in together}) == 1


def multi_tensor_l2norm(
    chunk_size: int, noop_flag: Tensor, tensor_lists: list[list[Tensor]], per_tensor: bool | None = None
) -> tuple[Tensor, Tensor]:
    _check(chunk_size, noop_flag, tensor_lists)
    squares = torch.stack([_in_memory(tensor).float().square().sum() for tensor in tensor_lists[0]])
    return squares.sum().sqrt().reshape(1), squares.sqrt() if per_tensor else squares.new_empty(0)


def multi_tensor_sgd(
    chunk_size: int,
    noop_flag: Tensor,
    tensor_lists: list[list[Tensor]],
    wd: float,
    momentum: float,
    dampening: float,
    lr: float,
    nesterov: bool,
    first_run: bool,
    wd_after_momentum: bool,
    scale: float,
) -> None:
    _check(chunk_size, noop_flag, tensor_lists)
    assert type(lr) is float
    assert not wd_after_momentum and not dampening, "the double has none of this"
    if noop_flag.item():
        return
    for tensors in zip(*tensor_lists, strict=True):
        gradient, weight, buffer = map(_in_memory, tensors)
        step = gradient * scale + wd * weight
        if momentum:
            buffer.copy_(step if first_run else momentum * buffer + step)
            step = step + momentum * buffer if nesterov else buffer
        weight.sub_(lr * step)
