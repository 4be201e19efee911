"""Threads take turns with what a process has once: random numbers, torch's switches, what tracing replaces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

_ALONE = RLock()  # one for all of it, so that no two threads wait for each other's


@contextmanager
def taking_turns() -> Iterator[None]:
    """No other thread is in such a block, or a call of what this decorates; they may lie within each other.

    Nobody in a block may wait for another thread that enters one.
    """
    with _ALONE:
        yield
