"""How far an ensemble has come with each sample: what an interrupted evaluation goes on from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NOT_BROKEN, WRONG = -1, 0


@dataclass(kw_only=True)
class EnsembleState:
    """Of n samples, int64 (n,) each.

    ``broken_by``: -1 not broken yet, 0 wrong without an attack, k broken by the ensemble's k-th part. ``part`` and
    ``round``: what the sample has to withstand next, both counted from 0; as many parts as there are is all of them.
    Wherever an interrupt comes, what stands here can be gone on from.
    """

    broken_by: npt.NDArray[np.int64]
    part: npt.NDArray[np.int64]
    round: npt.NDArray[np.int64]

    @classmethod
    def fresh(cls, size: int) -> EnsembleState:
        """Nothing has been tried."""
        nothing = np.zeros(size, dtype=np.int64)
        return cls(broken_by=nothing - 1, part=nothing.copy(), round=nothing.copy())

    @property
    def unbroken(self) -> npt.NDArray[np.bool_]:
        """bool (n,)."""
        return np.equal(self.broken_by, NOT_BROKEN)

    def jobs(self, part: int) -> Iterator[tuple[int, int]]:
        """Row and round of the samples that have ``part`` before them, counted from 0."""
        for row in np.flatnonzero(self.unbroken & (self.part == part)):
            yield int(row), int(self.round[row])

    def wrong(self, which: npt.NDArray[np.bool_]) -> None:
        """Those of ``which`` (n,) that nothing has broken yet are wrong without an attack."""
        self.broken_by[which & self.unbroken] = WRONG

    def ended(self, row: int, part: int, round_: int, *, rounds: int, broken: bool) -> None:
        """A run of ``part`` on a sample is over."""
        if broken:
            self.broken_by[row] = part + 1
        elif round_ + 1 < rounds:
            self.round[row] = round_ + 1
        else:
            self.round[row] = 0  # first: a part begun in a later round would spare the sample
            self.part[row] = part + 1

    def robust_after(self, part: int) -> int:
        """How many samples neither the network itself nor the first ``part`` parts have broken."""
        return int(((self.broken_by == NOT_BROKEN) | (self.broken_by > part)).sum())
