"""Replays, resumes and copies give the bits that eager gives, whatever has moved since the recording."""

from __future__ import annotations

import copy

import pytest
import torch
from side_by_side import assert_same, batch, recorded, small, step, twins

from fastiseat import AWP, PGD, TrainStep
from fastiseat.engine.recording.recorder import MOST_RECORDINGS
from fastiseat.kernels.core import dispatch

FLOAT = {"dtype": torch.float32}


def recordings(one: TrainStep) -> int:
    return len(one.engine._recorder._recordings)


@recorded
@pytest.mark.parametrize("precision", ["full", "fp16"])
def test_a_resumed_step_continues_bit_for_bit(precision: str, device: str, engine: str) -> None:
    torch.use_deterministic_algorithms(device == "cuda")
    parts = {
        "attack": PGD(steps=2, random_start=True),
        "precision": precision,
        "awp": AWP(gradient="previous-step"),
    }
    straight = step(small(device, **FLOAT), engine, **parts)
    for n in range(4):
        if n == 2:
            resumed = step(copy.deepcopy(straight.model), engine, **parts)
            resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
        straight(*batch(n, device=device, **FLOAT))
    for n in (2, 3):
        resumed(*batch(n, device=device, **FLOAT))
    torch.use_deterministic_algorithms(False)
    assert_same(resumed, straight, 0)


@recorded
def test_a_recorded_step_can_be_copied(device: str, engine: str) -> None:
    eager, replayed = twins(small(device), engine)
    for one in (eager, replayed):
        one(*batch(device=device))
    twin = copy.deepcopy(replayed)
    assert recordings(twin) == 0
    for one in (eager, replayed, twin):
        one(*batch(1, device=device))
    assert_same(replayed, eager)
    assert_same(twin, eager)
    assert twin.model.head is not replayed.model.head if hasattr(twin.model, "head") else True


@recorded
def test_momentum_can_be_emptied_between_replays(device: str, engine: str) -> None:
    eager, replayed = twins(small(device), engine)
    for n in range(4):
        for one in (eager, replayed):
            if n == 2:
                one.load_state_dict(one.state_dict() | {"momentum_buffers": {}})
                assert not one.momentum_buffers
            one(*batch(n, device=device))
        assert_same(replayed, eager)
        assert list(replayed.momentum_buffers) == list(eager.momentum_buffers)
    assert recordings(replayed) == 1


@recorded
def test_each_batch_size_has_its_recording(device: str, engine: str) -> None:
    eager, replayed = twins(small(device), engine, attack=PGD(steps=1))
    for n, m in enumerate([5, 4, 5, 4, 5]):
        for one in (eager, replayed):
            one(*batch(n, m, device=device))
        assert_same(replayed, eager)
        assert recordings(replayed) == min(n + 1, 2)


@recorded
def test_the_oldest_recording_goes(device: str, engine: str) -> None:
    eager, replayed = twins(small(device), engine, attack=PGD(steps=1))
    for n in range(MOST_RECORDINGS + 2):
        for one in (eager, replayed):
            one(*batch(n, 3 + n, device=device))
    assert_same(replayed, eager)
    assert recordings(replayed) == MOST_RECORDINGS
    kept = next(iter(replayed.engine._recorder._recordings.values()))
    replayed(*batch(9, 3 + MOST_RECORDINGS + 1, device=device))
    assert next(iter(replayed.engine._recorder._recordings.values())) is kept


@recorded
def test_settings_of_the_process_are_noticed(device: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = step(small(device, **FLOAT), engine, attack=PGD(steps=1))
    one(*batch(device=device, **FLOAT))
    monkeypatch.setenv(dispatch.VARIABLE, "reference")
    one(*batch(1, device=device, **FLOAT))
    assert recordings(one) == 2
    torch.set_default_dtype(torch.float64)
    one(*batch(2, device=device, **FLOAT))
    torch.set_default_dtype(torch.float32)
    assert recordings(one) == 3
    one(*batch(3, device=device, **FLOAT))
    assert recordings(one) == 3
    # As one sets it now; allow_tf32 may then not be read any more.
    matmul = torch.backends.cuda.matmul
    found, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    one(*batch(4, device=device, **FLOAT))
    matmul.fp32_precision = found
    assert recordings(one) == 4
