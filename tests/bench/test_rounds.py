"""Timing by turns, on a clock that tests can turn."""

import pytest
from bench_case import CPU

from fastiseat.bench import rounds
from fastiseat.bench.rounds import Timing, by_turns


class World:
    """Actions that take a known time, and a clock that knows it."""

    def __init__(self, monkeypatch):
        self.now, self.called = 0.0, []
        monkeypatch.setattr(rounds.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(rounds.time, "process_time", lambda: self.now)

    def action(self, name, seconds):
        def act():
            self.called.append(name)
            self.now += seconds

        return act


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_each_has_its_turn_in_each_round_and_every_other_round_runs_backwards(world):
    actions = {name: world.action(name, 1.0) for name in "abc"}
    by_turns(actions, device=CPU, rounds=3, seconds=0.5, warm_up=0)
    assert "".join(world.called) == "abc" + "abc" + "cba" + "abc"  # the first three tell how often a turn calls


def test_seconds_are_those_of_a_call(world):
    timings = by_turns({"a": world.action("a", 0.25)}, device=CPU, rounds=4, seconds=1.0)
    assert timings["a"].seconds == pytest.approx([0.25] * 4)
    assert timings["a"].spread == pytest.approx(0)


def test_the_host_s_time_is_that_of_a_turn_s_first_call(world):
    durations = iter([1.0, 2.0, 7.0, 7.0, 3.0, 7.0, 7.0])

    def act():
        world.now += next(durations)

    timings = by_turns({"a": act}, device=CPU, rounds=2, seconds=3.0, warm_up=0)
    assert timings["a"].host == [2.0, 3.0]


def test_a_turn_is_about_as_long_as_asked(world):
    by_turns({"a": world.action("a", 0.25)}, device=CPU, rounds=1, seconds=1.0, warm_up=2)
    assert len(world.called) == 2 + 1 + 4


def test_warm_up_is_not_timed(world):
    durations = iter([9.0, 9.0, 1.0, 1.0])

    def act():
        world.now += next(durations)

    timings = by_turns({"a": act}, device=CPU, rounds=1, seconds=0.5, warm_up=2)
    assert timings["a"].seconds == [1.0]


def test_median_and_spread():
    timing = Timing(seconds=[1.0, 4.0, 2.0, 3.0, 2.0])
    assert (timing.median, timing.spread) == (2.0, 1.5)


def test_it_tells_after_each_round(world):
    told = []
    by_turns({"a": world.action("a", 1.0)}, device=CPU, rounds=3, seconds=0.5, after_round=told.append)
    assert told == [1, 2, 3]
