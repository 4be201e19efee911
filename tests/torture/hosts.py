"""Two hosts on one folder, as NFS has it: mounted in two places, without flock, by clocks that differ."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

from fastiseat.lock import LEFT_OVER, LOCK
from torture.child import PATIENCE, end, run, said, start
from torture.shim import Machine
from torture.trial import Tally, Trial


def meet(trial: Trial, tally: Tally, tries: int, draw: random.Random) -> None:
    """A second host begins while the first one trains: it is refused. The first is killed: the second takes over.

    Or the second waits: once the first has ended it is refused, although the folder was empty when it began.
    """
    expected, _ = trial.unbroken()
    mount = trial.here.with_name("mount")
    mount.unlink(missing_ok=True)
    mount.symlink_to(trial.here)
    for what in islice(cycle(("is killed", "is waited for", "ends")), tries):
        trial.renew()
        late = draw.choice((0, 20, 60))
        where = f"{trial.deed.name}, two hosts, one {late} s late, the first {what}"
        with _training(trial, tally, where) as first:
            if what == "is waited for":
                _wait(trial, tally, first, mount, where)
            else:
                _meet(trial, tally, first, mount, late, where, killed=what == "is killed")
        _let_time_pass(trial.here / "run" / LOCK)
        trial.finish(expected, tally, where, Machine(host="mars", without_flock=True))


@contextmanager
def _training(trial: Trial, tally: Tally, where: str) -> Iterator[int]:
    """The first host's process, stopped, so that it does not end meanwhile."""
    first = start(trial.deed.command(trial.here), trial.here, Machine(host="moon", without_flock=True))
    if not _becomes(lambda: _is_held(trial.here / "run" / LOCK)):
        tally.lose(where, "the first host never took the lock")
        (trial.here / "run").mkdir(exist_ok=True)
        (trial.here / "run" / LOCK).touch()
    os.kill(first, signal.SIGSTOP)
    yield first


def _meet(trial: Trial, tally: Tally, first: int, mount: Path, late: int, where: str, *, killed: bool) -> None:
    machine = Machine(host="mars", seconds_late=late, without_flock=True)
    second = run(trial.deed.command(mount, again=True), mount, machine)
    tally.inputs += 2
    if not (second.refused and "is being trained by" in second.errors):
        tally.lose(where, f"the second host was not refused: {second}")
    os.kill(first, signal.SIGKILL if killed else signal.SIGCONT)
    tally.kills += killed
    ended = end(first, trial.here)
    if not killed and ended.code != 0:
        tally.lose(where, f"the first host: {ended}")


def _wait(trial: Trial, tally: Tally, first: int, mount: Path, where: str) -> None:
    words = (*trial.deed.command(mount), *trial.deed.seeded, "--wait")
    second = start(words, mount, Machine(host="mars", without_flock=True))
    tally.inputs += 2
    _becomes(lambda: _has_ended(second) or "waiting for it" in said(mount).read_text())
    os.kill(first, signal.SIGCONT)
    for name, process, folder in (("first", first, trial.here), ("second", second, mount)):
        ended = end(process, folder)
        if not (ended.code == 0 if name == "first" else ended.refused):
            tally.lose(where, f"the {name} host: {ended}")


def _has_ended(process: int) -> bool:
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _let_time_pass(lock: Path) -> None:
    """As long as a host is silent before it counts as gone."""
    then = time.time() - LEFT_OVER - 1
    os.utime(lock, (then, then))


def _is_held(lock: Path) -> bool:
    return lock.exists() and lock.stat().st_size > 0


def _becomes(true: Callable[[], bool]) -> bool:
    """Wait for it, as long as what is prepared before may take."""
    deadline = time.monotonic() + PATIENCE
    while not (is_true := true()) and time.monotonic() < deadline:
        time.sleep(0.002)
    return is_true
