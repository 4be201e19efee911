"""What happens beside an ensemble of attacks: its verdicts are saved now and then, and its progress is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastiseat.cli.progress import ConsoleProgress
from fastiseat.evaluation.records import Record

# Seconds.
_SAVED_EVERY, _SHOWN_EVERY = 20.0, 0.2


class Follower:
    """Told after each sample that a part is through with, of the part's number."""

    def __init__(self, record: Record, path: Path, progress: ConsoleProgress) -> None:
        self._record, self._path, self._progress = record, path, progress
        self._part, self._jobs = -1, 0
        self._saved, self._shown = time.monotonic(), 0.0

    def __call__(self, part: int) -> None:
        """Save and show, if it is time."""
        now = time.monotonic()
        if part != self._part or now - self._shown >= _SHOWN_EVERY:
            self._shown = now
            self._show(part)
        if now - self._saved >= _SAVED_EVERY:
            self._saved = now
            self._record.save(self._path)

    def _show(self, part: int) -> None:
        standing = self._record.standing
        left = int((standing.unbroken & (standing.part <= part)).sum())
        if part != self._part:
            self._part, self._jobs = part, left + 1  # one of them is just through
            self._progress.forget()
        share = 100 * standing.unbroken.mean()
        self._progress.count(
            self._record.parts[part], self._jobs - left, self._jobs, f"robust so far {share:.2f}%"
        )


@contextmanager
def saved_whatever_comes(record: Record, path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """The verdicts of the block, of which a part is worth saving too where an interrupt or an error ends it."""
    began, before = time.perf_counter(), record.seconds

    def save() -> None:
        record.seconds = before + time.perf_counter() - began
        record.save(path)

    try:
        yield
    except BaseException:
        if record.begun:
            save()
            say(f"the verdicts so far are in {path}: the same command goes on from there")
        raise
    save()
