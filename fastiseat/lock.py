"""One run a directory at a time: the second is told who holds it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from fastiseat.errors import UserError
from fastiseat.safe import OwnFolder

LOCK = ".lock"
"""The file's name; a hidden one, so a directory with nothing else counts as empty."""

BEAT = 30.0
"""Seconds between two signs of life, which are the file's time of change."""

LEFT_OVER = 120.0
"""Seconds without one after which a holder on another machine counts as gone."""

_NO_FLOCK = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_MOST_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that a lock file names."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@contextmanager
def locked(folder: Path, *, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Let no other process train into ``folder`` in the block; the folder is made where it is missing.

    The lock is the system's own (``flock``), which ends with the process, however that ends. Between machines that
    share a file system it may count for nothing, so the file also names its holder, and is touched every 30 s: a
    holder elsewhere counts as long as it did that in the last two minutes. Two machines that begin in the same
    moment may both be let in. The file stays, empty.

    Args:
        folder: the run's directory.
        say: is told where a lock that another machine left is taken over.

    Raises:
        UserError: another process holds it, or ``folder`` can't be written.
    """
    file = _open(folder)
    try:
        holder = Holder(pid=os.getpid(), host=socket.gethostname(), since=_now())
        _require_free(folder, file, holder.host, say)
        with _failures_told(folder):
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(asdict(holder)).encode(), 0)
        try:
            with _signs_of_life(file):
                yield
        finally:
            _give_up(file, holder)
    finally:
        os.close(file)


def _open(folder: Path) -> int:
    with _failures_told(folder):
        return OwnFolder(folder).open_lock(LOCK)


@contextmanager
def _failures_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {folder / LOCK}: {error.strerror}; mend that, or choose another --out"
        ) from error


def _require_free(folder: Path, file: int, host: str, say: Callable[[str], None]) -> None:
    system = _flock(folder, file)
    holder, silent = _read(file), time.time() - os.fstat(file).st_mtime
    if system is False:
        raise _held(folder, str(holder or "another process"))
    # Where the system has granted its lock, what this very machine left is over, however young it is.
    if holder is None or (system and holder.host == host):
        return
    if silent < LEFT_OVER:
        raise _held(folder, str(holder))
    say(f"{folder}: took over the lock of {holder}, which showed no sign of life for {silent:.0f} s")


def _flock(folder: Path, file: int) -> bool | None:
    """Whether the system grants its lock; None where the file system has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_FLOCK:
            return None
        with _failures_told(folder):
            raise
    return True


def _held(folder: Path, who: str) -> UserError:
    return UserError(f"{folder} is being trained by {who}: wait for it, or choose another --out")


def _read(file: int) -> Holder | None:
    """Who holds the lock; None where nobody does, or the file says nothing that makes sense."""
    try:
        found = json.loads(os.pread(file, _MOST_BYTES, 0))
        pid, host, since = int(found["pid"]), str(found["host"]), str(found["since"])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None
    # What is quoted in a message may hold no line break and no terminal's command.
    return Holder(pid=pid, host=host, since=since) if (host + since).isprintable() else None


@contextmanager
def _signs_of_life(file: int) -> Iterator[None]:
    """Touch ``file`` every :data:`BEAT` seconds, from a thread."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with suppress(OSError):  # a server that is away for a while
                os.utime(file)

    thread = threading.Thread(target=beat, name="fastiseat-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _give_up(file: int, holder: Holder) -> None:
    with suppress(OSError):
        if _read(file) == holder:  # after a long stop another machine may have taken it over
            os.ftruncate(file, 0)  # so that none waits for the signs of life to grow old
        fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would leave it to processes forked meanwhile


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
