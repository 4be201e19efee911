"""A search over any number of samples in full batches: who is broken or done leaves, and the next takes the place."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastiseat.attacks.search.protocol import FIXED, Search, State
from fastiseat.attacks.verdict import is_right
from fastiseat.evaluation.passes import EvaluationPasses
from fastiseat.evaluation.runners import Runner

Ints = npt.NDArray[np.int64]
Job = tuple[int, int]
"""A sample's row, and which run on it this is."""
Ended = Callable[[int, int, bool], None]
"""Told of each run's end: row, round, and whether the sample is broken."""

_FREE = -1


@dataclass(frozen=True, kw_only=True)
class Steps:
    """``repeat`` steps of a search: what a runner runs call by call, or by a recording of it.

    What is found after a sample's last step does not count: the repeats go on beyond it.
    """

    search: Search
    passes: EvaluationPasses
    repeat: int = 1

    def __call__(self, given: Mapping[str, Tensor]) -> State:
        """What of the state they change."""
        state = dict(given)
        for _ in range(self.repeat):
            before = state
            state = before | self.search.step(before, self.passes)
            # Several steps in one replay can't stop within it: what comes after a sample's budget is computed and
            # ignored.
            state["found"] = torch.where(before["clock"] < self.search.length, state["found"], before["found"])
        return {name: tensor for name, tensor in state.items() if name not in FIXED}


@dataclass(kw_only=True)
class Slots:
    """Who sits in which row of the state, and for how many steps; int64 (slots,) each, a row of -1 is free."""

    row: Ints
    round: Ints
    age: Ints

    @classmethod
    def free(cls, size: int) -> Slots:
        """Nobody yet."""
        return cls(
            row=np.full(size, _FREE), round=np.zeros(size, dtype=np.int64), age=np.zeros(size, dtype=np.int64)
        )

    @property
    def taken(self) -> npt.NDArray[np.bool_]:
        """bool (slots,)."""
        return np.not_equal(self.row, _FREE)

    def take(self, places: Ints) -> Slots:
        """Those of ``places`` alone."""
        return Slots(row=self.row[places], round=self.round[places], age=self.age[places])


class BatchedSearch:
    """Runs one search on the samples of a split, each as often as it has rounds, until it is broken.

    ``victims(rows, rounds)`` gives the fixed tensors of a search for these samples. ``runner`` computes the steps in
    batches of one of ``sizes``, the largest first; a sample found is broken where ``judge``, the passes of the
    verdict, says so of its adversarial image, and else searched on.
    """

    def __init__(
        self,
        steps: Steps,
        victims: Callable[[Ints, Ints], State],
        runner: Runner,
        *,
        judge: EvaluationPasses,
        rounds: int,
        sizes: tuple[int, ...],
        seed: int = 0,
    ) -> None:
        self._steps, self._victims, self._runner, self._judge = steps, victims, runner, judge
        self._rounds, self._sizes, self._seed = rounds, sizes, seed
        self._state: State = {}
        self._slots = Slots.free(0)
        self._queue: deque[Job] = deque()
        self._waiting = 0.0

    def __call__(self, jobs: Iterable[Job], ended: Ended, beat: Callable[[float], None] = lambda _: None) -> None:
        """From each job's round on; ``ended`` may be told of them in any order, ``beat`` of :attr:`left` each step."""
        self._queue = deque(jobs)
        self._waiting = sum(map(self._share, self._queue))
        self._slots = Slots.free(self._fitting(len(self._queue)))
        while self._queue or self._slots.taken.any():
            self._fill()
            self._state |= self._runner(self._steps, self._state, seed=self._seed)
            self._slots.age += self._steps.repeat
            self._dismiss(ended)
            beat(self.left)

    @property
    def left(self) -> float:
        """How many samples' whole runs are left at most: a sample that is broken needs less."""
        slots, length = self._slots, self._steps.search.length
        rounds = self._rounds - slots.round - np.minimum(slots.age, length) / length
        return self._waiting + float(rounds[slots.taken].sum()) / self._rounds

    def _share(self, job: Job) -> float:
        """What a job and those after it are of a sample's whole run."""
        return 1 - job[1] / self._rounds

    def _fitting(self, count: int) -> int:
        """The smallest size for so many, or the largest there is."""
        return min((size for size in self._sizes if size >= count), default=self._sizes[0])

    def _fill(self) -> None:
        """Give free slots to those who wait; where nobody waits, do with fewer slots."""
        slots = self._slots
        places = np.flatnonzero(~slots.taken)[: len(self._queue)]
        if len(places):
            jobs = [self._queue.popleft() for _ in places]
            self._waiting -= sum(map(self._share, jobs))
            slots.row[places], slots.round[places] = np.array(jobs).T
            slots.age[places] = 0
            self._start(places)
        else:
            self._shrink()

    def _start(self, places: Ints) -> None:
        slots = self._slots
        if not self._state:  # slots that stay free from the first repeat somebody's work
            places = np.arange(len(slots.row))
        rows = np.where(slots.row[places] == _FREE, slots.row[0], slots.row[places])
        given = self._victims(rows, slots.round[places])
        new = given | self._steps.search.start(given)
        if not self._state:
            self._state = new
            return
        at = torch.from_numpy(places).to(new["index"].device)
        for name, tensor in new.items():
            if tensor.dim():
                # Rows alone: the others are in the middle of their search.
                self._state[name].index_copy_(0, at, tensor)

    def _shrink(self) -> None:
        taken = np.flatnonzero(self._slots.taken)
        size = self._fitting(len(taken))
        if size == len(self._slots.row):
            return
        places = np.resize(taken, size)  # repeats them where there are fewer
        at = torch.from_numpy(places).to(self._state["index"].device)
        self._state = {name: t.index_select(0, at) if t.dim() else t for name, t in self._state.items()}
        self._slots = self._slots.take(places)
        self._slots.row[len(taken) :] = _FREE

    def _dismiss(self, ended: Ended) -> None:
        slots = self._slots
        # The one wait for the device in a round of steps: who is found decides which samples go on.
        broken = self._confirmed(np.flatnonzero(self._state["found"].cpu().numpy() & slots.taken))
        spent = np.flatnonzero((slots.age >= self._steps.search.length) & slots.taken)
        for place in broken:
            ended(int(slots.row[place]), int(slots.round[place]), True)
        for place in np.setdiff1d(spent, broken):
            row, round_ = int(slots.row[place]), int(slots.round[place])
            ended(row, round_, False)
            if round_ + 1 < self._rounds:
                self._queue.appendleft((row, round_ + 1))
                self._waiting += self._share((row, round_ + 1))
        slots.row[broken] = slots.row[spent] = _FREE

    def _confirmed(self, places: Ints) -> Ints:
        """Those of ``places`` whose image the judge takes for another class; the others are searched on."""
        if not len(places):
            return places
        state, at = self._state, torch.from_numpy(places).to(self._state["index"].device)
        # The searching passes may be in half precision; a verdict never is.
        logits = self._judge.logits(state["x_adv"].index_select(0, at))
        right = is_right(logits, state["labels"].index_select(0, at))
        # Found in half precision, and right in full: searched on, as if nothing had been found.
        state["found"].index_fill_(0, at[right], False)
        kept: Ints = places[~right.cpu().numpy()]
        return kept
