"""Random numbers of a sample's own: a function of its number and its clock, whichever batch it is attacked in."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.kernels.philox import Stream, philox

# Where a clock's bits begin in the counter's second word; below it stands the round.
_CLOCK_SHIFT = 16
MOST_ROUNDS = MOST_CLOCKS = 2**16


def draw(index: Tensor, round_: Tensor, clock: Tensor, *, seed: int, stage: int, count: int) -> Tensor:
    """int64 (m, ``count``), words 0 … 2**32 - 1.

    Args:
        index: int64 (m,), the samples' numbers, 0 … 2**32 - 1.
        round_: int64 (m,), which run on the sample this is: its target, or its restart.
        clock: int64 (m,), how far that run has come.
        seed: of the evaluation.
        stage: which attack of it draws.
        count: words for each sample.
    """
    blocks = torch.arange(-(-count // 4), device=index.device)
    place = round_ + (clock << _CLOCK_SHIFT)
    counter = (index[:, None], place[:, None], blocks, (stage << 16) + Stream.ATTACK)
    return torch.stack(philox(counter, (seed, seed >> 32)), dim=2).flatten(1)[:, :count]


def uniform(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Words as numbers in [0, 1): of float32 24 bits, so that none is rounded up to 1."""
    if dtype == torch.float64:
        return words.double() * 2.0**-32
    return (words >> 8).to(dtype) * 2.0**-24


def signs(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Words as -1 or 1, each as often."""
    return (words >> 31).to(dtype) * 2 - 1
