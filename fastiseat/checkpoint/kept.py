"""A run's best and last weights: written with each epoch, and restored where they are not what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

from torch import nn

from fastiseat.checkpoint.directory import WEIGHTS, RunDirectory
from fastiseat.checkpoint.identity import RUN
from fastiseat.checkpoint.recorded import SHA256, is_recorded, row_of
from fastiseat.checkpoint.store import Check
from fastiseat.errors import UserError
from fastiseat.models.files.checksum import Told, told
from fastiseat.report.reader import MetricsRow


@dataclass(kw_only=True)
class KeptWeights:
    """Of the run in ``directory``, which trains ``model``; ``metadata`` tells an epoch's row and a digest's."""

    directory: RunDirectory
    model: nn.Module
    metadata: Callable[[MetricsRow, str | None], dict[str, str]]
    say: Callable[[str], None]
    awaited: int | None = None
    """The epoch that wrote the best weights and is trained again, as its checkpoint was not to be."""

    def write(self, row: MetricsRow, run: str) -> None:
        """``last``, and ``best`` where the row says so, which is told their SHA-256."""
        content = self.directory.weights_content(
            "best" if row["best"] else "last", self.model, self.metadata(row, run)
        )
        row[SHA256] = hashlib.sha256(content).hexdigest()
        for which in WEIGHTS:
            if which == "last" or row["best"]:
                self.directory.write_weights_content(which, content)

    def settle(self, row: MetricsRow, rows: list[MetricsRow], check: Check) -> None:
        """Before ``row`` joins ``rows``: the best weights are a row's, however its epoch turned out this time."""
        if row["best"]:
            self.awaited = None
        elif self.awaited is not None and row["epoch"] >= self.awaited:
            self.awaited = None
            if not self._restored("best", rows, check):
                self._give_up_best(rows)
                row["best"] = True

    def restore(
        self,
        rows: list[MetricsRow],
        check: Check,
        *,
        epochs: int,
        more: bool,
        anew: bool = False,
        anyway: bool = False,
    ) -> None:
        """Have the files be those of the ``rows`` that a run goes on with, to the end of ``epochs``.

        ``more`` tells whether there are steps to come, ``anew`` whether they are others than those before, and
        ``anyway`` that the best may be one of them where the best so far is lost.

        Raises:
            UserError: weights that no checkpoint holds.
        """
        self.awaited = None
        for which in WEIGHTS:
            row, found = row_of(which, rows), self._found(which)
            if row is None or is_recorded(found, row):
                continue
            # A run that was killed when it had written them is about to write them again.
            later = _epoch(found) if more and len(rows) <= _epoch(found) < epochs else None
            if (later is None or anew) and self._restored(which, rows, check):
                continue
            if not more:
                raise self._lost(which, row, "restore the file from a copy")
            if which == "best":
                self._go_on_without_best(row, rows, later, anyway=anew or anyway)
            elif later is None:
                self.say(str(self._lost(which, row, "the epoch under way writes it again")))

    def _go_on_without_best(
        self, row: MetricsRow, rows: list[MetricsRow], later: int | None, *, anyway: bool
    ) -> None:
        if later is not None:
            self.awaited = later
        elif anyway:
            self._give_up_best(rows)
        else:
            remedy = "restore the file from a copy, or take the best of the epochs to come by --resume-anyway"
            raise self._lost("best", row, remedy)

    def _lost(self, which: str, row: MetricsRow, remedy: str) -> UserError:
        file, epoch = self.directory.path / WEIGHTS[which], row["epoch"] + 1
        return UserError(f"{file} is not what epoch {epoch} wrote, and no checkpoint holds that: {remedy}")

    def _restored(self, which: str, rows: list[MetricsRow], check: Check) -> bool:
        """Whether a checkpoint holds the very weights that the rows tell of, which then are written again."""
        row = row_of(which, rows)
        assert row is not None
        taken = sum(each["steps"] for each in rows[: row["epoch"] + 1])
        found = self.directory.checkpoints.of_step(taken, check)
        if found is None or len(found.state["rows"]) != row["epoch"] + 1:
            return False
        model = deepcopy(self.model).cpu()
        model.load_state_dict(found.state["model"])
        content = self.directory.weights_content(which, model, self.metadata(row, found.state.get(RUN)))
        if hashlib.sha256(content).hexdigest() != row[SHA256]:
            return False
        self.directory.write_weights_content(which, content)
        file = self.directory.path / WEIGHTS[which]
        self.say(f"{file} was not what epoch {row['epoch'] + 1} wrote: restored from {found.path}")
        return True

    def _give_up_best(self, rows: list[MetricsRow]) -> None:
        for row in rows:
            row["best"] = False
        file = self.directory.path / WEIGHTS["best"]
        self.say(
            f"{file} is not what its epoch wrote, and no checkpoint holds it: the best is one of the epochs to come"
        )

    def _found(self, which: str) -> Told | None:
        try:
            return told(self.directory.path / WEIGHTS[which])
        except OSError:
            return None


def _epoch(found: Told | None) -> int:
    """Which wrote it, as it says; -1 where it says nothing."""
    noted = "" if found is None else found.metadata.get("epoch", "")
    return int(noted) if noted.isdecimal() and len(noted) < 10 else -1
