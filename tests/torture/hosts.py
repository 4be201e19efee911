"""Two hosts on one folder, as NFS has it: mounted in two places, without flock, by clocks that differ."""

import os
import random
import signal
import time
from pathlib import Path

from fastiseat.lock import LEFT_OVER, LOCK
from torture.child import PATIENCE, end, run, start
from torture.shim import Machine
from torture.trial import Tally, Trial


def meet(trial: Trial, tally: Tally, tries: int, draw: random.Random) -> None:
    """A second host begins while the first one trains: it is refused. The first is killed: the second takes over."""
    expected, _ = trial.unbroken()
    mount = trial.here.with_name("mount")
    mount.unlink(missing_ok=True)
    mount.symlink_to(trial.here)
    for _ in range(tries):
        trial.renew()
        late = draw.choice((0, 20, 60))
        where = f"{trial.deed.name}, two hosts, one {late} s late"
        _meet(trial, tally, mount, late, where, killed=draw.random() < 0.5)
        _let_time_pass(trial.here / "run" / LOCK)
        trial.finish(expected, tally, where, Machine(host="mars", without_flock=True))


def _meet(trial: Trial, tally: Tally, mount: Path, late: int, where: str, *, killed: bool) -> None:
    first = start(trial.deed.command(trial.here), trial.here, Machine(host="moon", without_flock=True))
    if not _holds(trial.here / "run" / LOCK):
        tally.lose(where, "the first host never took the lock")
        (trial.here / "run").mkdir(exist_ok=True)
        (trial.here / "run" / LOCK).touch()
    os.kill(first, signal.SIGSTOP)  # so that it does not end meanwhile
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


def _let_time_pass(lock: Path) -> None:
    """As long as a host is silent before it counts as gone."""
    then = time.time() - LEFT_OVER - 1
    os.utime(lock, (then, then))


def _holds(lock: Path) -> bool:
    deadline = time.monotonic() + PATIENCE  # for what it prepares first
    while time.monotonic() < deadline:
        if lock.exists() and lock.stat().st_size:
            return True
        time.sleep(0.002)
    return False
