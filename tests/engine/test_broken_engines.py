"""Plausible mistakes in the recorded engines, one at a time: the comparison with eager or the recording sees each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from side_by_side import Plain, assert_same, assert_same_metrics, batch, twins
from torch import Tensor

from fastiseat import PGD, TrainStep, UserError
from fastiseat.engine.precision import LossScale
from fastiseat.engine.recording import recorder
from fastiseat.engine.recording.engines import Recorded
from fastiseat.engine.recording.guards import ModuleGuards
from fastiseat.engine.recording.recorder import Recorder, Recording, Snapshot
from fastiseat.engine.recording.tape import Tape
from fastiseat.engine.settings import Settings
from fastiseat.kernels.core import dispatch, native
from fastiseat.weights.state import NamedState


class Dropping(Plain):
    """With a buffer and random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(10))

    def forward(self, x: Tensor) -> Tensor:
        return torch.dropout(super().forward(x) * self.scale, 0.3, True)


# What is set before each step, by number; a new batch comes with each.
PLAN = [
    {"lam": 0.0, "eps": 0.1, "step_size": 0.04},
    {"lam": 0.1},
    {"lr": 0.01, "momentum": 0.5, "step_size": 0.08, "lam": 0.5, "gamma": 0.02},
    {"eps": 0.02},
    {"eps": 0.01},
    {"gamma": 0.0},
]


def run(dtype: torch.dtype = torch.float64, precision: str = "full") -> None:
    """Several steps of both engines; AssertionError where they differ."""
    torch.manual_seed(2)
    eager, replayed = twins(Dropping().to(dtype), "tape", attack=PGD(steps=2), precision=precision)
    kept: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    batches = []
    for n, numbers in enumerate(PLAN):
        given = batch(n, dtype=dtype)
        for one in (eager, replayed):
            change(one, n)
            one.set(**numbers)
        kept.append((replayed(*given), eager(*given)))
        batches.append(given)
        assert_same(replayed, eager)
        assert list(replayed.momentum_buffers) == list(eager.momentum_buffers)
    for n, (found, expected) in enumerate(kept):
        assert_same_metrics(found, expected)
        assert torch.equal(batches[n][0], batch(n, dtype=dtype)[0])


def change(one: TrainStep, n: int) -> None:
    if n == 3:
        one.model.scale = one.model.scale * 2
    if n == 4:
        one.load_state_dict(one.state_dict() | {"momentum_buffers": {}})


def bake(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    def mutant(patch: pytest.MonkeyPatch) -> None:
        honest = Settings.with_tensors
        patch.setattr(
            Settings,
            "with_tensors",
            lambda self, tensors: honest(self, {n: t for n, t in tensors.items() if n != name}),
        )

    mutant.__name__ = f"bake_{name}"
    return mutant


def capture_the_callers_batch(patch: pytest.MonkeyPatch) -> None:
    honest = Recorder.run

    def run(
        self: Recorder, key: Any, program: Any, inputs: Any, world: Any, *, seed: int = 0
    ) -> dict[str, Tensor]:
        return honest(self, key, lambda _: program(inputs), inputs, world, seed=seed)

    patch.setattr(Recorder, "run", run)


def forget_the_inputs(patch: pytest.MonkeyPatch) -> None:
    honest = Recording.replay
    patch.setattr(Recording, "replay", lambda self, inputs, device, *, seed: honest(self, {}, device, seed=seed))


def read_the_inputs_in_place(patch: pytest.MonkeyPatch) -> None:
    honest = Recording.__init__

    def init(self: Recording, capturer: Any, inputs: Any) -> None:
        honest(self, capturer, inputs)
        self._inputs = dict(inputs)

    patch.setattr(Recording, "__init__", init)


def wait_for_a_value(patch: pytest.MonkeyPatch) -> None:
    honest = LossScale.finite_or_zero

    def reading(self: LossScale, gradients: Any) -> Any:
        return honest(self, gradients) if all(bool(g.isfinite().all()) for g in gradients.values()) else {}

    patch.setattr(LossScale, "finite_or_zero", reading)


def no_recapture(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Settings, "structure", lambda self: None)


def no_address_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ModuleGuards, "_is_as_seen", lambda self: True)


def no_seed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(recorder, "own_randomness", lambda device, seed: nullcontext())


def no_way_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Snapshot, "restore", lambda self: None)


def momentum_left_behind(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(NamedState, "tensors", lambda self: [])


def names_of_momentum_forgotten(patch: pytest.MonkeyPatch) -> None:
    honest = Recorded._program

    def forgetful(self: Recorded, key: Any, resident: Any, inputs: Any) -> Any:
        results = honest(self, key, resident, inputs)
        self._written[key] = ((), ())
        return results

    patch.setattr(Recorded, "_program", forgetful)


def results_in_the_recordings_memory(patch: pytest.MonkeyPatch) -> None:
    honest = Recording._parts
    patch.setattr(Recording, "_parts", lambda self, kind, copy: honest(self, kind, self._packed[kind]))


def a_call_left_out(patch: pytest.MonkeyPatch) -> None:
    honest = Tape.end

    def losing(self: Tape) -> None:
        honest(self)
        del self._calls[len(self._calls) // 2]

    patch.setattr(Tape, "end", losing)


MUTANTS = [
    *map(bake, ["lr", "momentum", "eps", "step_size", "lam", "gamma"]),
    capture_the_callers_batch,
    forget_the_inputs,
    read_the_inputs_in_place,
    wait_for_a_value,
    no_recapture,
    no_address_check,
    no_seed,
    no_way_back,
    momentum_left_behind,
    names_of_momentum_forgotten,
    results_in_the_recordings_memory,
    a_call_left_out,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_it_is_seen(mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    with pytest.raises((AssertionError, UserError)):
        run()


def test_the_unchanged_engine_passes() -> None:
    run()
    run(torch.float32)
    run(torch.float32, "fp16")


@pytest.mark.skipif(bool(native.library("cpu").missing), reason="the native library is not built")
def test_a_kernel_outside_of_an_operator_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch.Op, "__call__", lambda self, call: self._serve(call, self._fitting(call)))
    with pytest.raises(UserError, match="is launched outside of an operator"):
        run(torch.float32)
