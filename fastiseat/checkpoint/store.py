"""The checkpoints of a run: written behind its back, checksummed, and the last few of them kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from fastiseat.checkpoint.fileformat import (
    DamagedError,
    ForeignError,
    UnusableError,
    encode,
    read,
    read_unchecked,
)
from fastiseat.checkpoint.snapshot import Snapshot
from fastiseat.errors import UserError
from fastiseat.safe import OwnFolder
from fastiseat.shortage import enough_memory

# The only checkpoint of earlier versions' runs: ``torch.save`` without a header.
UNCHECKED = "last.pt"
_REMEDY = "give the run more, or take a smaller --arch; earlier checkpoints are as they were"
_NAME = re.compile(r"step-(\d{9,})\.ckpt")


Check = Callable[[Mapping[str, Any], int | None], None]
"""Raises :class:`UnusableError` where a state, after so many steps, can't be gone on from."""


@dataclass(frozen=True)
class Found:
    """A checkpoint that was read back: its state on the CPU, and a line for each newer one that is passed over.

    ``step`` is None for an earlier version's ``last.pt``, which does not say.
    """

    state: dict[str, Any]
    step: int | None
    path: Path
    skipped: tuple[str, ...]


class Checkpoints:
    """``step-000001234.ckpt`` … in ``folder``: the last ``keep`` of a run, each complete and checksummed.

    One process at a time may write. The folder is made, and what a killed process left in it is removed, by the
    first :meth:`save`.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        assert keep >= 1
        self.folder, self.keep = folder, keep
        self._run = OwnFolder(folder.parent)
        self._writer: Thread | None = None
        self._failure: BaseException | None = None
        self._swept = False
        self._foreign: set[Path] = set()

    def save(self, state: Mapping[str, Any], *, step: int) -> None:
        """Copy ``state``, the run's after ``step`` steps, and write the copy in the background.

        ``state`` is nested dictionaries and lists of tensors, numbers, strings and None, and may change as soon as
        this returns. Waits for the write before, so that one copy is in memory at a time, and raises the
        :class:`UserError` that ended it. Older checkpoints are removed when this one is on the disk.
        """
        self.flush()
        with enough_memory("while a checkpoint is copied", _REMEDY):
            snapshot = Snapshot(state)
        # No daemon: an interrupted process finishes its checkpoint before it exits.
        self._writer = Thread(target=self._write, args=(snapshot, step), name="checkpoint")
        self._writer.start()

    def flush(self) -> None:
        """Return when all that was saved is on the disk; :class:`UserError` where it can't be written."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """End as :meth:`flush` does; no thread remains."""
        self.flush()

    def latest(self, check: Check = lambda state, step: None) -> Found | None:
        """The newest checkpoint that is intact and passes ``check``, once all that was saved is written; None where
        there is none at all.

        :class:`UserError` where there are some and nobody can go on from any, and where one cannot be read for a
        reason that can be mended.
        """
        self.flush()
        skipped: list[str] = []
        for path in self._paths():
            try:
                return Found(*_read(path, check), path, tuple(skipped))
            except UnusableError as error:
                skipped.append(f"{path} {error.kind}: {error}")
                if isinstance(error, ForeignError):
                    self._foreign.add(path)
        if skipped:
            own = "bring the run's own back, or " if self._foreign else ""
            raise UserError(f"{'; '.join(skipped)}; {own}remove {self.folder} to start afresh")
        return None

    def of_step(self, step: int, check: Check) -> Found | None:
        """The checkpoint after ``step`` steps; None where there is none that passes ``check``."""
        path = self._path(step)
        try:
            return Found(*_read(path, check), path, ()) if path.exists() else None
        except UnusableError:
            return None

    def newest(self) -> Path | None:
        """The newest file, intact or not, that is on the disk; None where there is none."""
        self.flush()
        return next(iter(self._paths()), None)

    def size(self) -> int:
        """Bytes of all checkpoints on the disk."""
        return sum(map(_num_bytes, self._paths()))

    def _paths(self) -> list[Path]:
        """The newest first."""
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        steps = {path: step for path in paths if (step := _step(path)) is not None}
        return sorted(steps, key=steps.__getitem__, reverse=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.ckpt"

    def _write(self, snapshot: Snapshot, step: int) -> None:
        try:
            self._sweep()
            path = self._path(step)
            with enough_memory(f"while {path} is written", _REMEDY):
                self._run.write(path.relative_to(self._run.path), *encode(snapshot.wait(), step=step))
            self._remove_all_but(path)
        except BaseException as error:  # whatever it is, the caller's thread raises it
            self._failure = error

    def _sweep(self) -> None:
        if self._swept:
            return
        self._run.sweep(self.folder.name)
        self._swept = True

    def _remove_all_but(self, written: Path) -> None:
        """Keep ``written`` and those before it. What is beyond it was damaged, so that the run went on from here.

        What is another run's stays: it may be all that this other run has.
        """
        self._foreign.discard(written)
        paths = [path for path in self._paths() if path not in self._foreign]
        place = paths.index(written)
        for path in paths[:place] + paths[place + self.keep :]:
            _remove(path)


def _step(path: Path) -> int | None:
    """By which a file is sorted; None for one that is no checkpoint."""
    name = _NAME.fullmatch(path.name)
    return int(name[1]) if name else -1 if path.name == UNCHECKED else None


def _read(path: Path, check: Check) -> tuple[dict[str, Any], int | None]:
    try:
        state, step = (read_unchecked(path), None) if path.name == UNCHECKED else read(path)
    except OSError as error:
        # Not called damaged: the advice to remove it would lose the run.
        raise UserError(f"{path} cannot be read: {error.strerror}; mend that and resume again") from error
    if step not in (None, _step(path)):
        raise DamagedError(f"it was written after {step} steps, unlike its name")
    check(state, step)
    return state, step


def _num_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a newer one took its place meanwhile
        return 0


def _remove(path: Path) -> None:
    with suppress(OSError):  # a file too many is no reason to end a run; the next write tries again
        path.unlink()
