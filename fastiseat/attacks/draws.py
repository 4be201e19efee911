"""Random numbers of a sample's own: a function of its number and its clock, whichever batch it is attacked in.

SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators"): the n-th word of a stream is
a mix of its key and n times a constant. A search draws at every step, and on a small network Philox, ten rounds of ten
operations each, would cost as much as the network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.kernels.core.philox import signed

_GAMMA = 0x9E3779B97F4A7C15
# Each round of the mix: how far the word is shifted onto itself, and by what it is multiplied then.
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
_WORD = 2**32 - 1
# Where a sample's number begins above the round, and a clock above the number of the word.
_INDEX_SHIFT, _CLOCK_SHIFT = 16, 24


def draw(index: Tensor, round_: Tensor, clock: Tensor, *, seed: int, stage: int, count: int) -> Tensor:
    """int64 (m, ``count``), words 0 … 2**32 - 1.

    Args:
        index: int64 (m,), the samples' numbers, 0 … 2**32 - 1.
        round_: int64 (m,), which run on the sample this is, its target or its restart: 0 … 2**16 - 1.
        clock: int64 (m,), how far that run has come: 0 … 2**32 - 1.
        seed: of the evaluation.
        stage: which attack of it draws.
        count: words for each sample, 2**25 at most.
    """
    key = splitmix((index << _INDEX_SHIFT) + round_, key=_host_mix(_host_mix(seed) + stage))
    pairs = torch.arange(-(-count // 2), device=index.device)
    long_words = splitmix((clock << _CLOCK_SHIFT)[:, None] + pairs, key=key[:, None])
    return torch.stack(((long_words >> 32) & _WORD, long_words & _WORD), dim=2).flatten(1)[:, :count]


def splitmix(number: Tensor, *, key: Tensor | int) -> Tensor:
    """The word of 64 bits, as int64, that follows ``number`` others in the stream of ``key``."""
    word = (number + 1) * signed(_GAMMA, 64) + (signed(key, 64) if isinstance(key, int) else key)
    for shift, factor in _MIX:
        word = word ^ ((word >> shift) & (2 ** (64 - shift) - 1))  # the sign must not be shifted in
        word = word * signed(factor, 64) if factor != 1 else word
    return word


def uniform(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Words as numbers in [0, 1): of float32 24 bits, so that none is rounded up to 1."""
    if dtype == torch.float64:
        return words.double() * 2.0**-32
    return (words >> 8).to(dtype) * 2.0**-24


def signs(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Words as -1 or 1, each as often."""
    return (words >> 31).to(dtype) * 2 - 1


def _host_mix(seed: int) -> int:
    """The first word of the stream of ``seed``."""
    word = (seed + _GAMMA) % 2**64
    for shift, factor in _MIX:
        word = (word ^ (word >> shift)) * factor % 2**64
    return word
