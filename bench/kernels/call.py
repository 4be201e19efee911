"""One call of an op, as it is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Call:
    """An op's arguments, and how its results are judged and counted."""

    arguments: Any
    """The record that the op takes."""
    moved: int
    """Bytes that must be read and written."""
    tolerance: float
    """Largest relative deviation of each result from the reference's."""
    written: tuple[Tensor, ...] = ()
    """Those arguments that the op writes into: results too."""
    pytorch: Callable[..., Any] | None = None
    """The same results by PyTorch's own kernels, where the reference is made of smaller ones."""


def nhwc(x: Tensor) -> Tensor:
    """``x`` in channels-last."""
    return x.contiguous(memory_format=torch.channels_last)
