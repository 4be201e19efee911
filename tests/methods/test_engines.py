"""Each method by the tape, with its clean pass recomputed, and compiled, against eager."""

from __future__ import annotations

from typing import Any

import pytest
from method_cases import ABLATIONS, NAMES
from side_by_side import assert_same, assert_same_metrics, batch, compiles, plain, recorded, small, step, twins

from fastiseat import AWP, PGD, TrainStep
from fastiseat.methods import SLOREMART, TRADES, from_config
from fastiseat.recipes import recipe

EXACT = {"cpu": 0.0, "cuda": 1e-9}


def parts_of(name: str) -> dict[str, Any]:
    """By its recipe, with three attack steps; of ISEAT's ablations, with AWP."""
    if name in ABLATIONS:
        return {"method": ABLATIONS[name].method, "attack": PGD(steps=3), "awp": AWP(gamma=0.01)}
    config = recipe("digits", name)
    attack = PGD(steps=3, **{part: getattr(config.attack, part) for part in ("bn_mode", "noise", "random_start")})
    return {"method": from_config(config.objective), "attack": attack, "awp": config.awp}


def assert_three_steps_alike(mine: TrainStep, theirs: TrainStep, tolerance: float, device: str = "cpu") -> None:
    for n in range(3):
        found, expected = (one(*batch(n, device=device)) for one in (mine, theirs))
        assert_same_metrics(found, expected, tolerance)
        assert_same(mine, theirs, tolerance)


@recorded
@pytest.mark.parametrize("name", [*NAMES, *ABLATIONS])
def test_a_recording_equals_eager(name: str, device: str, engine: str) -> None:
    eager, replayed = twins(small(device), engine, **parts_of(name))
    assert_three_steps_alike(replayed, eager, EXACT[device], device)


@pytest.mark.parametrize("name", [name for name in [*NAMES, *ABLATIONS] if parts_of(name)["method"].needs_clean])
def test_a_clean_pass_that_is_recomputed(name: str) -> None:
    kept, again = (step(small(), "eager", clean_graph=kind, **parts_of(name)) for kind in ("keep", "recompute"))
    assert_three_steps_alike(again, kept, 1e-9)


@compiles
@pytest.mark.parametrize("gamma", [0.0, 0.005])
def test_a_compiled_step_of_trades(gamma: float) -> None:
    attack = PGD(steps=2, noise=0.001, bn_mode="eval")
    eager, compiled = twins(plain(), "compile", method=TRADES(), attack=attack, awp=AWP(gamma=gamma))
    compiled._passes.compile("aot_eager")
    assert_three_steps_alike(compiled, eager, 1e-9)


@recorded
def test_another_stage_is_another_recording(device: str, engine: str) -> None:
    eager, replayed = twins(small(device), engine, method=SLOREMART(), attack=PGD(steps=1))
    for n, (fraction, sign) in enumerate([(0.0, 1), (0.5, 0), (0.9, -1), (0.9, -1), (0.1, 0), (0.0, 1)]):
        for one in (eager, replayed):
            one.come_to(fraction)
            one(*batch(n, device=device))
        assert eager.method.sign == sign
        assert_same(replayed, eager, EXACT[device])
    assert len(replayed.engine._recorder._recordings) == 3
