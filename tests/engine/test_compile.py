"""The network by torch.compile: the same step, to rounding."""

from __future__ import annotations

import pytest
import torch
from side_by_side import STEPS, assert_same, batch, compiles, parts_of, plain, small, twins

from fastiseat import PGD, TrainStep

pytestmark = compiles


def assert_equal_steps(eager: TrainStep, compiled: TrainStep, plan: list[dict[str, float]]) -> None:
    for n, numbers in enumerate(plan):
        for one in (eager, compiled):
            one.set(**numbers)
            one(*batch(n))
    assert_same(compiled, eager, 1e-9)


@pytest.mark.parametrize("case", ["at", "iseat", "warm-start", "eval-bn"])
def test_a_compiled_module_equals_eager(case: str) -> None:
    plan, parts = parts_of(case)
    eager, compiled = twins(plain(), "compile", **parts)
    compiled._passes.compile("aot_eager")
    assert_equal_steps(eager, compiled, plan[: STEPS - 2])


def test_a_compiled_network_of_ours_equals_eager() -> None:
    eager, compiled = twins(small(), "compile", attack=PGD(steps=2))
    compiled._passes.compile("aot_eager")
    assert_equal_steps(eager, compiled, [{}, {"lr": 0.01}])


def test_inductors_code_equals_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests' poisoned memory would be compiled too.
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, getattr(torch._C._VariableFunctions, name))
    eager, compiled = twins(plain(), "compile", attack=PGD(steps=1))
    assert_equal_steps(eager, compiled, [{}, {"lr": 0.01}])
