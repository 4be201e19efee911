"""Whether few samples say anything: exact tails of the binomial distribution."""

from __future__ import annotations

import math

LEVEL = 0.01


def beyond(count: int, of: int, share: float) -> bool:
    """Whether ``count`` among ``of`` is too many for a chance of ``share`` each: so many come 1 time in 100."""
    return count > 0 and _tail(count, of, share) < LEVEL


def outnumber(more: int, fewer: int) -> bool:
    """The sign test on pairs that differ: whether ``more`` of them one way can't be a fair coin's doing.

    Seven to none can't, six to none can.
    """
    return beyond(more, more + fewer, 0.5)


def _tail(count: int, of: int, share: float) -> float:
    """P(at least ``count`` of ``of``)."""
    chances = (math.comb(of, k) * share**k * (1 - share) ** (of - k) for k in range(count, of + 1))
    return math.fsum(chances)
