"""Timing by turns: what is compared runs in the same minutes, on the same clocks, in the same process."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch

K = TypeVar("K")
Action = Callable[[], object]
# A round of one action is long enough to be timed, and short enough that all meet the same conditions.
_MOST_CALLS = 1000


@dataclass(kw_only=True)
class Timing:
    """Seconds a call, one value a round."""

    seconds: list[float] = field(default_factory=list)
    """Until the device was done."""
    host: list[float] = field(default_factory=list)
    """CPU time of all threads until a call returned that found the device idle."""

    @property
    def median(self) -> float:
        """Of the seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Largest less smallest, relative to the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


class Clock:
    """Times a block of calls: by CUDA's events on a GPU, by the process's clock on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def __call__(self, action: Action, calls: int) -> tuple[float, float]:
        """Seconds a call until the device was done, and CPU seconds until the first call returned."""
        if self.device.type != "cuda":
            began = time.perf_counter()
            host = self._host(action, calls)
            return (time.perf_counter() - began) / calls, host
        begin, end = self._events
        # Of this device: an event's default is the stream of the current one, which may be another.
        stream = torch.cuda.current_stream(self.device)
        torch.cuda.synchronize(self.device)
        begin.record(stream)
        host = self._host(action, calls)
        end.record(stream)
        end.synchronize()
        return begin.elapsed_time(end) / 1000 / calls, host

    @staticmethod
    def _host(action: Action, calls: int) -> float:
        began = time.process_time()
        action()
        # Later ones may wait, busily, for room in the device's queue.
        spent = time.process_time() - began
        for _ in range(calls - 1):
            action()
        return spent


def by_turns(
    actions: Mapping[K, Action],
    *,
    device: torch.device,
    rounds: int,
    seconds: float,
    warm_up: int = 1,
    after_round: Callable[[int], None] = lambda number: None,
) -> dict[K, Timing]:
    """Time each action in each of ``rounds`` rounds, for about ``seconds`` a round; warm-up apart.

    Every other round runs backwards, so that a clock that drifts favours nobody.
    """
    clock = Clock(device)
    calls: dict[K, int] = {}
    for key, action in actions.items():
        for _ in range(warm_up):
            action()
        once, _ = clock(action, 1)
        calls[key] = max(1, min(_MOST_CALLS, math.ceil(seconds / max(once, 1e-9))))
    timings = {key: Timing() for key in actions}
    for number in range(rounds):
        for key in _turn(list(actions), number):
            spent, host = clock(actions[key], calls[key])
            timings[key].seconds.append(spent)
            timings[key].host.append(host)
        after_round(number + 1)
    return timings


def _turn(keys: list[K], number: int) -> Iterator[K]:
    return iter(keys) if number % 2 == 0 else reversed(keys)
