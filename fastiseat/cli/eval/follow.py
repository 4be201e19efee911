"""What happens beside an ensemble of attacks: its verdicts are saved now and then, and its progress is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastiseat.cli.console.progress import ConsoleProgress
from fastiseat.evaluation.verdicts.records import Record

# Seconds.
_SAVED_EVERY, _SHOWN_EVERY = 20.0, 0.2


class Follower:
    """Follows one ensemble on one network."""

    def __init__(self, record: Record, path: Path, progress: ConsoleProgress) -> None:
        self._record, self._path, self._progress = record, path, progress
        self._part, self._size = -1, 0.0
        self._saved, self._shown = time.monotonic(), 0.0

    def on_sample(self) -> None:
        """A sample's verdict or place has changed: save them all, if it is time."""
        now = time.monotonic()
        if now - self._saved >= _SAVED_EVERY:
            self._saved = now
            self._record.save(self._path)

    def beat(self, part: int, left: float) -> None:
        """Show how far ``part`` is, if it is time: so many samples' whole runs are ``left``."""
        now = time.monotonic()
        if part == self._part and now - self._shown < _SHOWN_EVERY:
            return
        self._shown = now
        if part != self._part:
            self._part, self._size = part, max(left, 1.0)
            self._progress.forget()
        share = 100 * self._record.ensemble_state.unbroken.mean()
        done = round(self._size - left)
        self._progress.count(self._record.parts[part], done, round(self._size), f"robust so far {share:.2f}%")


@contextmanager
def saved_whatever_comes(record: Record, path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """The verdicts of the block, of which a part is worth saving too where an interrupt or an error ends it."""
    began, before = time.perf_counter(), record.seconds

    def save() -> None:
        record.lasted(before + time.perf_counter() - began)
        record.save(path)

    try:
        yield
    except BaseException:
        if record.begun:
            save()
            say(f"the verdicts so far are in {path}: the same command goes on from there")
        raise
    save()
