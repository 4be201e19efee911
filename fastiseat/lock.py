"""One process a directory at a time, to train into it or to prepare data: the second is told who holds it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from fastiseat.errors import UserError
from fastiseat.mounts import is_local
from fastiseat.safe import OwnFolder

LOCK = ".lock"
"""The file's name; a hidden one, so a directory with nothing else counts as empty."""

BEAT = 30.0
"""Seconds between two signs of life, which are the file's time of change."""

LEFT_OVER = 120.0
"""Seconds without one after which a holder on another machine counts as gone; one so far in the future is none."""

POLL = 1.0
"""Seconds between two looks of one that waits."""

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


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a lock is for, and its file.

    Attributes:
        of: the folder that it keeps for one process.
        file: which is locked.
        doing: what is done to the folder, as in "is being trained by".
        elsewhere: the option that names another folder.
    """

    of: Path
    file: Path
    doing: str
    elsewhere: str


class HeldError(UserError):
    """Another process holds the lock."""

    def __init__(self, claim: Claim, who: str, *, sign: str = "") -> None:
        self.who = f"{claim.of} is being {claim.doing} by {who}"
        super().__init__(f"{self.who}{sign}: wait for it, which --wait does, or choose another {claim.elsewhere}")


@contextmanager
def locked(folder: Path, *, say: Callable[[str], None] = lambda line: None, wait: bool = False) -> Iterator[None]:
    """Let no other process train into ``folder`` in the block; the folder is made where it is missing.

    Args:
        folder: the run's directory.
        say: as :func:`hold`.
        wait: as :func:`hold`.

    Raises:
        HeldError: another process holds it, unless ``wait``.
        UserError: ``folder`` can't be written.
    """
    claim = Claim(of=folder, file=folder / LOCK, doing="trained", elsewhere="--out")
    with hold(claim, say=say, wait=wait):
        yield


@contextmanager
def hold(claim: Claim, *, say: Callable[[str], None] = lambda line: None, wait: bool = False) -> Iterator[None]:
    """Let no other process do in the block what ``claim`` is for; the file's folder is made where it is missing.

    The lock is the system's own (``flock``), which ends with the process, however that ends: on a file system of this
    machine alone it decides. Between machines that share one it may count for nothing, so the file also names its
    holder, and is touched every 30 s: a holder elsewhere counts as long as it did that in the last two minutes, by the
    file server's clock. Two machines that begin in the same moment may both be let in. The file stays, empty.

    Args:
        claim: what is to be kept from others.
        say: is told whom it waits for, and where a lock that another machine left is taken over.
        wait: for whoever holds it.

    Raises:
        HeldError: another process holds it, unless ``wait``.
        UserError: the file can't be written.
    """
    holder = Holder(pid=os.getpid(), host=socket.gethostname(), since=_now())
    file = _patiently(claim, holder.host, say) if wait else _taken(claim, holder.host, say)
    try:
        with _failures_told(claim):
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(asdict(holder)).encode(), 0)
        try:
            with _signs_of_life(file):
                yield
        finally:
            _give_up(file, holder)
    finally:
        os.close(file)


def _patiently(claim: Claim, host: str, say: Callable[[str], None]) -> int:
    told = ""
    while True:
        try:
            return _taken(claim, host, say)
        except HeldError as held:
            if held.who != told:
                say(f"{held.who}: waiting for it to end")
            told = held.who
        time.sleep(POLL)


def _taken(claim: Claim, host: str, say: Callable[[str], None]) -> int:
    """The lock's file, which is ours."""
    with _failures_told(claim):
        file = OwnFolder(claim.file.parent).open_lock(claim.file.name)
    try:
        _require_free(claim, file, host, say)
    except BaseException:
        os.close(file)
        raise
    return file


@contextmanager
def _failures_told(claim: Claim) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {claim.file}: {error.strerror}; mend that, or choose another {claim.elsewhere}"
        ) from error


def _require_free(claim: Claim, file: int, host: str, say: Callable[[str], None]) -> None:
    with _failures_told(claim):
        system = flock(file)
    holder, folder = _read(file), claim.file.parent
    if system is False:
        raise HeldError(claim, str(holder or "another process"))
    # Where the system has granted its lock, what this very machine left is over, however young it is. One that is
    # started again in a container has another name.
    if holder is None or (system and (holder.host == host or is_local(folder))):
        return
    silent = _time_there(folder) - os.fstat(file).st_mtime
    if abs(silent) < LEFT_OVER:
        sign = f"; its last sign of life is {max(silent, 0):.0f} s old, and at {LEFT_OVER:.0f} s it counts as gone"
        raise HeldError(claim, str(holder), sign=sign)
    since = f"showed no sign of life for {silent:.0f} s" if silent > 0 else "shows one of the future"
    say(f"{claim.of}: took over the lock of {holder}, which {since}")


def _time_there(folder: Path) -> float:
    """What the clock says by which the signs of life are dated: that of the file server, where one may differ."""
    probe = folder / f"{LOCK}.{secrets.token_hex(8)}.tmp"
    try:
        number = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC)
    except OSError:  # a full disk
        return time.time()
    try:
        return os.fstat(number).st_mtime
    finally:
        os.close(number)
        with suppress(OSError):
            probe.unlink()


def flock(file: int) -> bool | None:
    """Whether the system grants its lock on an open file; None where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        return None
    return True


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
