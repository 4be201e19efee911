"""What a step of each kind costs, counted from outside in passes of the network; nothing here is timed."""

from __future__ import annotations

import pytest
from counting import CountedPasses
from side_by_side import batch, compiles, small, step

from fastiseat import AWP, ISEAT, PGD, Standard, TrainStep

M = 6


def cost(one: TrainStep, *, first: bool = False) -> CountedPasses:
    """Of the next step; of the ``first``, with what it tries and records."""
    if not first:
        one(*batch(0, M))
    with CountedPasses(one.model, M) as passes:
        one(*batch(1, M))
    return passes


# Direction of ν -> units of an ISEAT step of ten attack steps.
UNITS = {"exact": 28, "last-attack-step": 26, "half-batch": 26.5, "previous-step": 25}


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("engine", ["eager", "tape"])
def test_each_direction_of_the_weight_perturbation(kind: str, engine: str) -> None:
    one = step(small(), engine, attack=PGD(), awp=AWP(gradient=kind))
    assert cost(one).units == UNITS[kind]


@pytest.mark.parametrize("engine", ["eager", "tape"])
def test_a_clean_pass_that_is_recomputed_is_one_forward_more(engine: str) -> None:
    kept = cost(step(small(), engine, attack=PGD(), clean_graph="keep"))
    again = cost(step(small(), engine, attack=PGD(), clean_graph="recompute"))
    assert kept.passes == (12, 13, 3)
    assert again.passes == (13, 13, 3)


@pytest.mark.parametrize("engine", ["eager", "tape"])
def test_recomputing_costs_nothing_where_nothing_is_clean(engine: str) -> None:
    one = step(small(), engine, method=ISEAT(lam=0), attack=PGD(), clean_graph="recompute")
    assert cost(one).passes == (12, 12, 2)


@pytest.mark.parametrize("engine", ["eager", "tape"])
def test_training_without_an_attack(engine: str) -> None:
    assert cost(step(small(), engine, method=Standard(), awp=AWP(gamma=0))).passes == (1, 1, 1)


@compiles
def test_a_compiled_attack_computes_no_weight_gradients() -> None:
    one = step(small(), "compile", attack=PGD(steps=3))
    one._passes.compile("aot_eager")
    assert cost(one).passes == (6, 6, 3)


@pytest.mark.parametrize("bn_mode", ["train", "eval"])
def test_a_first_step_by_tape_is_tried_warmed_up_recorded_and_replayed(bn_mode: str) -> None:
    eager, tape = (step(small(), engine, attack=PGD(steps=3, bn_mode=bn_mode)) for engine in ("eager", "tape"))
    once = cost(eager).passes
    forward, of_input, of_weight = cost(tape, first=True).passes
    assert (forward - 1, of_input, of_weight) == tuple(3 * count for count in once)
    assert cost(tape).passes == once
