"""How the tensors of a call lie in memory: all as the first does."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def layout(x: Tensor) -> torch.memory_format:
    """The memory format that the results for ``x`` have: its own, contiguous where it is in none."""
    channels_last = _CHANNELS_LAST.get(x.dim())
    if channels_last and not x.is_contiguous() and x.is_contiguous(memory_format=channels_last):
        return channels_last
    return torch.contiguous_format


def brought(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """``x`` in that format; itself where it is."""
    return x.contiguous(memory_format=memory_format)


def sizes(x: Tensor, memory_format: torch.memory_format) -> tuple[int, int, int]:
    """``num`` x ``channels`` x ``inner`` elements, in the order of memory."""
    num, channels, inner = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    if memory_format == torch.contiguous_format:
        return num, channels, inner
    return num * inner, channels, 1


def per_channel(vector: Tensor, x: Tensor) -> Tensor:
    """(C,) as (1, C, 1, ...), so that it meets ``x`` along the channels."""
    return vector.reshape(1, -1, *[1] * (x.dim() - 2))
