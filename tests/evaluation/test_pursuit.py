"""Who sits where: every run goes to its end exactly once, in any batch, with any samples broken at any time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from fastiseat.attacks.search.protocol import AttackedNetwork, State, begun, noted
from fastiseat.evaluation.ensemble.batched_search import BatchedSearch, Ints, Steps
from fastiseat.evaluation.passes import EvaluationPasses
from fastiseat.evaluation.runners import EagerRunner
from fastiseat.evaluation.verdicts.ensemble_state import EnsembleState

LENGTH = 7
Breaks = dict[tuple[int, int], int]
"""By row and round the clock at which a run finds an image."""


@dataclass(frozen=True)
class Scripted:
    """Finds what ``breaks`` says, and fails on a state that belongs to another run."""

    breaks: Breaks
    stepped: list[tuple[int, int, int]] = field(default_factory=list)
    length: int = LENGTH

    def start(self, given: Mapping[str, Tensor]) -> State:
        return begun(given) | {"mine": given["index"] * 100 + given["round"], "steps": given["index"] * 0}

    def step(self, state: Mapping[str, Tensor], network: AttackedNetwork) -> State:
        del network
        index, rounds, clock = (state[name].tolist() for name in ("index", "round", "clock"))
        assert state["mine"].equal(state["index"] * 100 + state["round"])
        assert state["steps"].equal(state["clock"])
        assert state["images"].flatten().equal(state["index"].double())
        runs = list(zip(index, rounds, clock, strict=True))
        self.stepped.extend(runs)
        found = torch.tensor([self.breaks.get((row, round_)) == at for row, round_, at in runs])
        return noted(state, state["images"] + 0.5, found) | {"steps": state["steps"] + 1}


class Judge:
    """Takes images that were found for another class, but for the first so many times that it is asked of a row."""

    def __init__(self, refusals: int = 0) -> None:
        self.asked: dict[int, int] = {}
        self.refusals = refusals

    def logits(self, x: Tensor) -> Tensor:
        rows = (x - 0.5).flatten().long().tolist()
        for row in rows:
            self.asked[row] = self.asked.get(row, 0) + 1
        wrong = torch.tensor([float(self.asked[row] > self.refusals) for row in rows])
        return torch.stack([0.5 + 0 * wrong, wrong], 1)


def victims(rows: Ints, rounds: Ints) -> State:
    index = torch.from_numpy(rows)
    return {
        "images": index.double().view(-1, 1, 1, 1),
        "labels": index * 0,
        "target": index * 0 + 1,
        "index": index,
        "round": torch.from_numpy(rounds),
        "eps": torch.tensor(0.1),
    }


def batched_search(
    search: Scripted, *, sizes: tuple[int, ...], rounds: int, repeat: int = 1, judge: Judge | None = None
) -> BatchedSearch:
    steps = Steps(search=search, passes=EvaluationPasses(model=torch.nn.Identity()), repeat=repeat)
    return BatchedSearch(steps, victims, EagerRunner(), judge=judge or Judge(), rounds=rounds, sizes=sizes)  # type: ignore[arg-type]


def expected(jobs: list[tuple[int, int]], breaks: Breaks, rounds: int) -> list[tuple[int, int, bool]]:
    ends = []
    for row, begin in jobs:
        for round_ in range(begin, rounds):
            broken = breaks.get((row, round_), LENGTH) < LENGTH
            ends.append((row, round_, broken))
            if broken:
                break
    return ends


SIZES = st.sets(st.integers(1, 9), min_size=1).map(lambda sizes: tuple(sorted(sizes, reverse=True)))
COUNTS = st.integers(0, 14)
# Some beyond the last step.
CLOCKS = st.integers(0, LENGTH + 3)


def breaks_of(count: int, rounds: int) -> st.SearchStrategy[Breaks]:
    places = st.tuples(st.integers(0, max(count - 1, 0)), st.integers(0, rounds - 1))
    return st.dictionaries(places, CLOCKS, max_size=2 * count)


@hypothesis.given(st.data(), SIZES, COUNTS, st.integers(1, 4), st.integers(1, 4))
@hypothesis.settings(max_examples=60)
def test_every_run_ends_once(
    data: st.DataObject, sizes: tuple[int, ...], count: int, rounds: int, repeat: int
) -> None:
    breaks = data.draw(breaks_of(count, rounds))
    jobs = [(row, data.draw(st.integers(0, rounds - 1))) for row in range(count)]
    check_runs(breaks, jobs, sizes=sizes, rounds=rounds, repeat=repeat)


def check_runs(
    breaks: Breaks, jobs: list[tuple[int, int]], *, sizes: tuple[int, ...], rounds: int, repeat: int
) -> None:
    """AssertionError where a run is lost, repeated, out of turn, or cut short."""
    search, told = Scripted(breaks), []
    batched_search(search, sizes=sizes, rounds=rounds, repeat=repeat)(jobs, lambda *end: told.append(end))
    ends = expected(jobs, breaks, rounds)
    assert sorted(told) == sorted(ends)
    for row, _ in jobs:  # rounds in their order
        assert [end for end in told if end[0] == row] == [end for end in ends if end[0] == row]
    due = {(row, round_, clock) for row, round_, _ in ends for clock in range(length_of(breaks, row, round_))}
    assert due <= set(search.stepped), "beside these, slots that are free go on with somebody's work"


def length_of(breaks: Breaks, row: int, round_: int) -> int:
    return min(breaks.get((row, round_), LENGTH) + 1, LENGTH)


def test_a_pinned_run() -> None:
    pinned()


def pinned(repeat: int = 1) -> None:
    """Many samples in few slots, broken at various times; AssertionError where something is lost."""
    breaks = {(0, 0): 0, (1, 1): 6, (2, 0): 3, (4, 2): 0, (5, 0): 7, (6, 1): 8, (7, 2): 2}
    check_runs(breaks, [(row, row % 2) for row in range(9)], sizes=(4, 2, 1), rounds=3, repeat=repeat)


def test_batches_are_full_while_somebody_waits() -> None:
    search, sizes = Scripted({}), []
    chase = batched_search(search, sizes=(4, 2, 1), rounds=2)
    honest = chase._runner

    def counted(program: Steps, given: State, *, seed: int) -> Mapping[str, Tensor]:
        sizes.append(len(given["index"]))
        return honest(program, given, seed=seed)  # type: ignore[arg-type]

    chase._runner = counted  # type: ignore[assignment]
    chase([(row, 0) for row in range(9)], lambda *_: None)
    assert sizes == [4] * (4 * LENGTH + 1) + [1] * (2 * LENGTH - 1)


@pytest.mark.parametrize("repeat", [1, 4])
def test_what_is_found_beyond_the_last_step_does_not_count(repeat: int) -> None:
    breaks, told = {(0, 0): LENGTH, (1, 0): LENGTH - 1, (2, 0): LENGTH + 2}, []
    batched_search(Scripted(breaks), sizes=(4,), rounds=1, repeat=repeat)(
        [(row, 0) for row in range(3)], lambda *end: told.append(end)
    )
    assert sorted(told) == [(0, 0, False), (1, 0, True), (2, 0, False)]


@pytest.mark.parametrize(("refusals", "broken"), [(0, True), (1, False)])
def test_what_the_judge_denies_is_searched_on(refusals: int, broken: bool) -> None:
    check_judge(refusals, broken)


def check_judge(refusals: int = 1, broken: bool = False) -> None:
    """AssertionError where a sample is broken though the verdict on its image was that it is right."""
    told: list[tuple[int, int, bool]] = []
    search, judge = Scripted({(0, 0): 2}), Judge(refusals)
    batched_search(search, sizes=(2,), rounds=1, judge=judge)([(0, 0)], lambda *end: told.append(end))
    assert told == [(0, 0, broken)]
    assert judge.asked == {0: 1}
    assert len({clock for _, _, clock in search.stepped}) == (3 if broken else LENGTH)


class StopError(Exception):
    """An interrupt."""


@hypothesis.given(st.data(), SIZES, st.integers(1, 12), st.integers(1, 3))
@hypothesis.settings(max_examples=40)
def test_an_interrupted_run_goes_on(data: st.DataObject, sizes: tuple[int, ...], count: int, rounds: int) -> None:
    breaks = data.draw(breaks_of(count, rounds))
    patience = data.draw(st.integers(1, count * rounds))

    def ended(ensemble_state: EnsembleState, stop: Callable[[], None]) -> Callable[[int, int, bool], None]:
        def end(row: int, round_: int, broken: bool) -> None:
            ensemble_state.ended(row, 0, round_, rounds=rounds, broken=broken)
            stop()

        return end

    whole, parts = EnsembleState.fresh(count), EnsembleState.fresh(count)
    batched_search(Scripted(breaks), sizes=sizes, rounds=rounds)(whole.jobs(0), ended(whole, lambda: None))
    left = [patience]

    def stop() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise StopError

    try:
        batched_search(Scripted(breaks), sizes=sizes, rounds=rounds)(parts.jobs(0), ended(parts, stop))
    except StopError:
        batched_search(Scripted(breaks), sizes=sizes, rounds=rounds)(parts.jobs(0), ended(parts, lambda: None))
    assert np.array_equal(parts.broken_by, whole.broken_by)
    assert np.array_equal(parts.part, whole.part)
    assert (whole.part[whole.unbroken] == 1).all()
