"""What measurements read from a device: time, memory, its name."""

from __future__ import annotations

import time

import pytest
import torch
from devices import DEVICES

from fastiseat.bench.machine import Clocks, machine
from fastiseat.bench.rounds import Clock, by_turns
from fastiseat.bench.steps.memory import peak_bytes
from fastiseat.pipelines.protocol.memory import free_bytes

MEBI = 2**20


@pytest.fixture(params=DEVICES)
def device(request) -> torch.device:
    """As the commands know it, without a number."""
    return torch.device(request.param)


def busy(device: torch.device) -> None:
    """At least 5 ms of the device's time: a card turns 20 million cycles at 4 GHz at most."""
    if device.type == "cuda":
        torch.cuda._sleep(20_000_000)
    else:
        time.sleep(0.006)


def test_a_clock_waits_for_the_device(device: torch.device) -> None:
    busy(device)
    clock = Clock(device)
    for calls in (1, 3):
        spent, host = clock(lambda: busy(device), calls)
        assert 0.005 <= spent < 1
        if device.type == "cuda":
            assert host < spent / 2, "the host only starts the work"
        else:
            assert host < spent, "who sleeps takes no CPU time"


def test_rounds_time_what_the_device_does(device: torch.device) -> None:
    actions = {"busy": lambda: busy(device), "idle": lambda: None}
    timings = by_turns(actions, device=device, rounds=2, seconds=1e-6)
    assert [len(timing.seconds) for timing in timings.values()] == [2, 2]
    assert min(timings["busy"].seconds) > 10 * max(timings["idle"].seconds)


def test_the_peak_is_what_was_held_at_once(device: torch.device) -> None:
    kept = torch.ones(4 * MEBI, device=device)

    def action() -> None:
        first = torch.ones(2 * MEBI, device=device)
        del first
        second = torch.ones(MEBI, device=device)
        third = torch.ones(2 * MEBI, device=device)
        del second, third

    for _ in range(2):
        # A GPU's cached blocks may be a little larger than what is asked for.
        assert 12 * MEBI <= peak_bytes(action, device) < 15 * MEBI
    assert len(kept) == 4 * MEBI


def test_memory_that_is_taken_is_not_free(device: torch.device) -> None:
    free = free_bytes(device)
    assert 0 < free <= machine(device)["memory"]
    if device.type == "cuda":
        kept = torch.ones(64 * MEBI, device=device)
        # Half would do: others may give some back meanwhile.
        assert free_bytes(device) <= free - 4 * len(kept) // 2


def test_the_machine_is_told(device: torch.device) -> None:
    found = machine(device)
    clocks = Clocks(device=device)
    clocks.look()
    assert found["kind"] == device.type
    assert found["device"]
    if device.type == "cuda":
        assert found["device"] == torch.cuda.get_device_name()
        assert found["versions"]["cuda"] == torch.version.cuda
    else:
        assert clocks.summary() is None
