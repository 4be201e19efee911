"""How many threads a run on a CPU computes with: those that it is given, those it began with, or the faster count.

The count decides how sums are cut, so that another one rounds otherwise: it is a run's own, and kept for its resume.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

# Variables that say how many threads are to be used; whoever sets one has decided.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# Images a step times parameters times pixels: up to here one thread takes a tenth of a second, and a trial a second.
SMALL = 2e9
# Steps for each count, and seconds after which a trial knows enough.
ROUNDS, ENOUGH = 3, 3.0


@dataclass(frozen=True, kw_only=True)
class Threads:
    """A count and, where it was not simply as found, why it was taken."""

    count: int
    why: str = ""


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def named() -> str:
    """The variable by which the user has decided, as it is set; empty where none is."""
    return next((f"{name}={os.environ[name]}" for name in VARIABLES if os.environ.get(name)), "")


def begun_with(stored: Mapping[str, Any]) -> int | None:
    """The count in a run's ``config.json``; None where it tells none, or the run was on a GPU."""
    host, device = stored.get("host"), stored.get("device")
    count = host.get("threads") if isinstance(host, Mapping) else None
    return count if device == "cpu" and isinstance(count, int) and count > 0 else None


def as_begun(count: int) -> Threads:
    """Those of a run that goes on, or as many of them as there are cores for."""
    here = torch.get_num_threads()
    if count == here:
        return Threads(count=count)
    if count <= cores():
        return Threads(count=count, why=f"{count}, as the run began")
    return Threads(count=here, why=f"{here}, as {count} that the run began with are more than the cores here")


@contextmanager
def computing_with(count: int) -> Iterator[None]:
    """PyTorch's threads in the block; the caller's count afterwards."""
    found = torch.get_num_threads()
    if count == found:  # to set it is no empty act: MKL then adapts its own count no more
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(found)


def faster(step: Callable[[], object]) -> Threads:
    """One thread or as many as there are now, whichever takes ``step`` less time here and now."""
    most = torch.get_num_threads()
    counts = (1, most)
    began, seconds = time.perf_counter(), {count: [_seconds(step, count)] for count in counts}  # warm-up
    for rounds in range(ROUNDS):
        if time.perf_counter() - began > ENOUGH and rounds:
            break
        for count in counts:
            seconds[count].append(_seconds(step, count))
    taken = {count: median(seconds[count][1:]) for count in counts}
    best = 1 if taken[1] < taken[most] else most
    told = " and ".join(f"{taken[count]:.3f} s with {count}" for count in counts)
    return Threads(count=best, why=f"{best}, as a step takes {told}; --threads N fixes the count and its rounding")


def _seconds(step: Callable[[], object], count: int) -> float:
    with computing_with(count):
        began = time.perf_counter()
        step()
        return time.perf_counter() - began
