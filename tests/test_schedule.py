"""Which scalars each epoch trains with: the paper's stages to the epoch, and what holds for any schedule."""

import math
from dataclasses import asdict, fields
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastiseat.config import AWP, PGD, SGD, Config, Objective, Schedule
from fastiseat.engine.settings import SCALARS
from fastiseat.schedule import Scalars, as_row, first_epoch, moving, progress, scalars_at, scalars_of_step

FRACTIONS = st.floats(0, 1)
SCHEDULES = st.builds(
    Schedule,
    epochs=st.integers(1, 60),
    lr_drops=st.lists(FRACTIONS, max_size=4).map(tuple),
    lr_factor=st.floats(0.01, 1),
    lam_from=FRACTIONS,
    awp_from=FRACTIONS,
    warmup=FRACTIONS,
)


SHAPES = st.builds(
    Schedule,
    epochs=st.integers(1, 30),
    lr_shape=st.sampled_from(["steps", "cosine", "onecycle"]),
    lr_per_step=st.booleans(),
    lr_warmup=FRACTIONS,
    lr_drops=st.lists(FRACTIONS, max_size=4).map(tuple),
)


def steps_of(schedule, steps_per_epoch, name="lr", **groups):
    """The learning rate, or another scalar, of each step of a run."""
    config = Config(schedule=schedule, **groups)
    places = [(epoch, step) for epoch in range(schedule.epochs) for step in range(steps_per_epoch)]
    return [getattr(scalars_of_step(config, *place, steps_per_epoch), name) for place in places]


def run_of(schedule, **groups):
    config = Config(schedule=schedule, **groups)
    return [scalars_at(config, epoch) for epoch in range(schedule.epochs)]


def test_the_papers_200_epochs():
    run = run_of(Schedule())
    expected = [0.1] * 100 + [0.01] * 50 + [0.001] * 50
    assert [epoch.lr for epoch in run] == pytest.approx(expected, rel=1e-12)
    assert [epoch.lam for epoch in run] == [0.0] * 100 + [0.1] * 100
    assert {epoch.gamma for epoch in run} == {0.007}
    assert {(epoch.eps, epoch.step_size) for epoch in run} == {(8 / 255, 2 / 255)}


def test_the_warm_start_of_svhn():
    schedule = Schedule(lam_from=0, warmup=0.025)
    attack = PGD(eps=8 / 255, step_size=1 / 255)
    run = run_of(schedule, attack=attack, awp=AWP(gamma=0.009), optimizer=SGD(lr=0.01))
    for number in range(5):
        epoch = asdict(run[number])
        assert epoch["eps"] == pytest.approx(8 / 255 * number / 5)
        assert epoch["step_size"] == pytest.approx(1 / 255 * number / 5)
        assert (epoch["lr"], epoch["lam"], epoch["gamma"]) == (0.01, 0.0, 0.0)
    assert run[0].eps == 0
    assert run[5] == Scalars(lr=0.01, momentum=0.9, eps=8 / 255, step_size=1 / 255, lam=0.1, gamma=0.009)


def test_fine_tuning_of_tables_7_to_9():
    run = run_of(Schedule(epochs=40, lr_drops=(0.5,), lam_from=0), optimizer=SGD(lr=0.01))
    assert [epoch.lr for epoch in run] == pytest.approx([0.01] * 20 + [0.001] * 20)
    assert {epoch.lam for epoch in run} == {0.1}


@pytest.mark.parametrize(
    ("epochs", "starts"), [(1, [0]), (2, [0, 1]), (3, [0, 2]), (4, [0, 2, 3]), (5, [0, 3, 4]), (7, [0, 4, 6])]
)
def test_short_and_odd_runs(epochs, starts):
    rates = [epoch.lr for epoch in run_of(Schedule(epochs=epochs))]
    assert [number for number in range(epochs) if number == 0 or rates[number] < rates[number - 1]] == starts


@given(epochs=st.integers(4, 500))
def test_a_run_of_four_epochs_or_more_enters_every_stage(epochs):
    assert len({epoch.lr for epoch in run_of(Schedule(epochs=epochs))}) == 3


@given(epochs=st.integers(1, 500))
def test_lam_is_off_as_long_as_the_learning_rate_is_at_its_first_value(epochs):
    for epoch in run_of(Schedule(epochs=epochs)):
        assert (epoch.lam == 0) == (epoch.lr == 0.1)


@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_stage_begins_at_the_epoch_that_its_fraction_names(k_of_n):
    k, n = k_of_n
    assert first_epoch(k / n, n) == k


@given(fraction=FRACTIONS, epochs=st.integers(1, 1000))
def test_no_stage_begins_an_epoch_late_and_only_a_last_one_before_its_fraction(fraction, epochs):
    late = first_epoch(fraction, epochs) - fraction * epochs
    assert late < 1 + 1e-7
    assert late >= -1e-8 or first_epoch(fraction, epochs) == epochs - 1


@given(fraction=st.floats(0, 1, exclude_max=True), epochs=st.integers(2, 1000))
def test_every_stage_is_entered(fraction, epochs):
    assert 0 <= first_epoch(fraction, epochs) < epochs


@given(fraction=FRACTIONS)
def test_a_run_of_one_epoch_stays_in_its_first_stage(fraction):
    assert first_epoch(fraction, 1) == (fraction > 1e-9)


@given(
    st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))),
)
def test_progress_has_come_to_a_stage_with_its_first_epoch(k_of_n, epoch_of_run):
    fraction, (epoch, epochs) = k_of_n[0] / k_of_n[1], epoch_of_run
    assert (progress(epoch, epochs) >= fraction) == (epoch >= first_epoch(fraction, epochs))


@pytest.mark.parametrize(
    ("drop", "epochs", "start"),
    [(74 / 76, 76, 74), (74 / 76, 4, 3), (74 / 76, 2, 1), (99 / 120, 120, 99), (99 / 120, 4, 3), (0.5, 200, 100)],
)
def test_where_drops_of_other_papers_come(drop, epochs, start):
    rates = [epoch.lr for epoch in run_of(Schedule(epochs=epochs, lr_drops=(drop,)))]
    assert rates == pytest.approx([0.1] * start + [0.01] * (epochs - start))


@given(SCHEDULES, st.floats(0, 10), st.floats(0, 1))
def test_scalars_of_any_schedule(schedule, lam, gamma):
    run = run_of(schedule, objective=Objective(lam=lam), awp=AWP(gamma=gamma))
    assert all(late.lr <= early.lr for early, late in pairwise(run))
    assert {epoch.lam for epoch in run} <= {0.0, lam}
    assert {epoch.gamma for epoch in run} <= {0.0, gamma}
    for name in ("eps", "step_size", "lam", "gamma"):
        values = [getattr(epoch, name) for epoch in run]
        assert values == sorted(values), f"{name} only ever grows"
    for epoch in run:
        if epoch.eps < 8 / 255:
            assert epoch.lam == epoch.gamma == 0


@given(SCHEDULES)
def test_the_learning_rate_ends_with_one_factor_for_each_drop_that_was_reached(schedule):
    reached = sum(first_epoch(drop, schedule.epochs) < schedule.epochs for drop in schedule.lr_drops)
    assert run_of(schedule)[-1].lr == pytest.approx(0.1 * schedule.lr_factor**reached)


def test_the_step_takes_all_of_them():
    assert {field.name for field in fields(Scalars)} | {"epoch"} == set(SCALARS)


def by_rice(t, epochs):
    """Rice et al.'s piecewise learning rate."""
    return 0.1 if t / epochs < 0.5 else 0.01 if t / epochs < 0.75 else 0.001


@pytest.mark.parametrize(("epochs", "steps"), [(200, 3), (4, 391), (5, 7), (1, 8)])
def test_set_before_each_step_a_drop_hits_the_last_step_of_the_epoch_before(epochs, steps):
    found = steps_of(Schedule(epochs=epochs, lr_per_step=True), steps)
    expected = [by_rice(e + (i + 1) / steps, epochs) for e in range(epochs) for i in range(steps)]
    assert found == pytest.approx(expected, rel=1e-12)
    if epochs == 200:
        assert found[299 - 1 : 299 + 1] == pytest.approx([0.1, 0.01])


def test_a_cosine_by_epochs_and_by_steps():
    config = {"epochs": 8, "lr_shape": "cosine"}
    by_epoch = [0.1 * (1 + math.cos(math.pi * e / 8)) / 2 for e in range(8)]
    assert steps_of(Schedule(**config), 3)[::3] == pytest.approx(by_epoch, rel=1e-12)
    assert [epoch.lr for epoch in run_of(Schedule(**config))] == pytest.approx(by_epoch, rel=1e-12)
    by_step = [0.1 * (1 + math.cos(math.pi * (i + 1) / 24)) / 2 for i in range(24)]
    assert steps_of(Schedule(**config, lr_per_step=True), 3) == pytest.approx(by_step, rel=1e-12, abs=1e-17)


@pytest.mark.parametrize("warmup", [0.25, 0.0, 0.3, 0.999, 1.0])
@pytest.mark.parametrize(("epochs", "steps"), [(50, 7), (3, 5), (1, 11), (6, 1), (2, 390)])
def test_one_cycle_is_pytorchs(epochs, steps, warmup):
    """Learning rate and momentum, which it moves by default, whatever SGD was given."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.21, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.21, pct_start=warmup, epochs=epochs, steps_per_epoch=steps
    )
    group, expected = optimizer.param_groups[0], []
    for number in range(epochs * steps):
        expected.append((group["lr"], group["momentum"]))
        optimizer.step()
        if number + 1 < epochs * steps:
            theirs.step()
    schedule = Schedule(epochs=epochs, lr_shape="onecycle", lr_warmup=warmup)
    for name, values in zip(("lr", "momentum"), zip(*expected, strict=True), strict=True):
        found = steps_of(schedule, steps, name, optimizer=SGD(lr=0.21))
        assert found == pytest.approx(values, rel=1e-12, abs=0)


def test_one_cycle_of_a_momentum_of_ones_own():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=12, pct_start=0.25, max_momentum=0.7, base_momentum=0.2
    )
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        theirs.step() if len(expected) < 12 else None
    schedule = Schedule(epochs=3, lr_shape="onecycle", momentum_cycle=(0.7, 0.2))
    assert steps_of(schedule, 4, "momentum") == pytest.approx(expected, rel=1e-12)
    assert min(expected) < 0.21


@pytest.mark.parametrize("shape", [{"lr_shape": "onecycle", "momentum_cycle": None}, {}, {"lr_shape": "cosine"}])
def test_momentum_stays_where_nothing_cycles_it(shape):
    schedule = Schedule(epochs=3, **shape)
    assert set(steps_of(schedule, 4, "momentum", optimizer=SGD(momentum=0.8))) == {0.8}
    assert "momentum" not in moving(schedule)
    assert "momentum" not in as_row(scalars_at(Config(schedule=schedule), 0), schedule)


@pytest.mark.parametrize(
    ("epochs", "drops", "stages"),
    [(120, (75, 90, 100), (0.1, 0.01, 0.001)), (120, (60, 90, 110), (0.1, 0.01, 0.005))],
    ids=["MART", "GAIRAT"],
)
def test_each_drop_to_a_factor_of_its_own(epochs, drops, stages):
    schedule = Schedule(epochs=epochs, lr_drops=tuple(drop / epochs for drop in drops), lr_stages=stages)
    rates = [epoch.lr for epoch in run_of(schedule)]
    limits = [0, *drops, epochs]
    expected = [lr for lr, (a, b) in zip((1.0, *stages), pairwise(limits), strict=True) for _ in range(b - a)]
    assert rates == [0.1 * share for share in expected]


@given(SHAPES, st.integers(1, 40))
def test_learning_rates_of_any_shape(schedule, steps):
    """In 0 … lr, one within an epoch unless the shape says otherwise, and the epoch's end is the last step's."""
    config, rates = Config(schedule=schedule), steps_of(schedule, steps)
    assert all(0 <= rate <= 0.1 * (1 + 1e-15) for rate in rates)
    if schedule.lr_shape != "onecycle":
        assert all(late <= early for early, late in pairwise(rates))
    for epoch in range(schedule.epochs):
        here = rates[epoch * steps : (epoch + 1) * steps]
        assert moving(schedule) or len(set(here)) == 1
        many = 10**9 if schedule.lr_shape == "onecycle" else steps
        end, whole = scalars_of_step(config, epoch, many - 1, many), scalars_at(config, epoch)
        assert end.lr == pytest.approx(whole.lr, rel=1e-6, abs=1e-9)
        assert end.momentum == pytest.approx(whole.momentum, rel=1e-6)
