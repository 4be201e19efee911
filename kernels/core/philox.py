"""Random numbers without a state: Philox4x32-10, four words as a function of a counter and a key.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The words are integers, so
they are the same on every device; ``tl.philox`` of Triton and cuRAND's Philox compute the same ones, with key =
(seed & 0xFFFFFFFF, seed >> 32). NumPy's Philox is 4x64, another generator.
"""

from __future__ import annotations

from enum import IntEnum, unique

import torch
from torch import Tensor

Word = int | Tensor
"""An integer, or a tensor of integers of any dtype; its low 32 bits count, negative ones as two's complement."""

MASK = 2**32 - 1
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


@unique
class Stream(IntEnum):
    """The low half of the counter's last word: one number for each op that draws, so that no two share a draw.

    The high half numbers the counters of an op that needs several for one sample.
    """

    AUGMENT = 1
    IDBH = 2


def philox(
    counter: tuple[Word, Word, Word, Word], key: tuple[Word, Word]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of each counter, as int64 tensors with values 0 … 2**32 - 1.

    Args:
        counter: four words, lowest first: integers or tensors that broadcast, all tensors on one device.
        key: two words, likewise.

    Returns:
        The words, lowest first, each of the shape that counter and key broadcast to.
    """
    c0, c1, c2, c3 = map(_low_word, counter)
    k0, k1 = map(_low_word, key)
    for _ in range(_ROUNDS):
        high_0, low_0 = _multiply(c0, _MULTIPLIERS[0])
        high_1, low_1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0
        k0, k1 = (k0 + _KEY_STEPS[0]) & MASK, (k1 + _KEY_STEPS[1]) & MASK
    return torch.as_tensor(c0), torch.as_tensor(c1), torch.as_tensor(c2), torch.as_tensor(c3)


def signed(word: int, bits: int) -> int:
    """The low ``bits`` of an integer as two's complement: what a kernel's, an op's or a tensor's integers hold."""
    return (word + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


def below(word: Tensor, bound: Word) -> Tensor:
    """Words as integers 0 … ``bound`` - 1: ``(word · bound) >> 32``, for a bound of at most 2**31.

    Each value takes ``2**32 / bound`` words, rounded up or down: uniform but for 1 part in ``2**32 / bound``.
    """
    return (word * bound) >> 32


def between(word: Tensor, low: float, high: float) -> Tensor:
    """Words as numbers from ``low`` up to ``high``, float64: ``low + word / 2**32 · (high - low)``."""
    return word.double() * 2.0**-32 * (high - low) + low


def _low_word(word: Word) -> Word:
    return (word.to(torch.int64) if isinstance(word, Tensor) else word) & MASK


def _multiply(word: Word, multiplier: int) -> tuple[Word, Word]:
    # The product itself needs 64 bits and a sign. With multiplier - 2**32, at least -2**31 here, it fits in int64:
    # the low word is the same, and the high word is short of exactly one word.
    product = word * (multiplier - 2**32)
    return (product >> 32) + word, product & MASK
