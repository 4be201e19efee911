"""Peak memory of a stretch of code, and which batch would fit."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def peak_bytes(action: Callable[[], object], device: torch.device) -> int:
    """The most that torch held at once while ``action`` ran, beyond what it held before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        action()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _without_stderr(), torch.autograd.profiler.profile(profile_memory=True) as profile:
        action()
    return _highest(profile)


def _highest(profile: torch.autograd.profiler.profile) -> int:
    assert profile.kineto_results is not None
    events: list[Any] = list(profile.kineto_results.events())
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = highest = 0
    for _, change in changes:
        held += change
        highest = max(highest, held)
    return highest


@contextmanager
def _without_stderr() -> Iterator[None]:
    """The profiler's library tells of its start and stop there, whatever log level it is asked for."""
    sys.stderr.flush()
    found = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(found, 2)
        os.close(found)
        os.close(nowhere)


def largest_batch(peak_of: Callable[[int], int], available: int, *, probes: tuple[int, int]) -> int:
    """The largest batch whose peak is ``available`` bytes at most, by a straight line through two probes."""
    small, large = probes
    low, high = peak_of(small), peak_of(large)
    each = max(1, (high - low) // (large - small))
    return max(0, (available - (low - small * each)) // each)
