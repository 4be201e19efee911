"""The campaigns: each tries something on one deed and counts what was lost."""

import errno
import os
import random
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torture.child import KILLED
from torture.shim import FULL_DISKS, Luck, Machine
from torture.trial import Tally, Trial

_HOSTS = ("", "moon", "mars")
_NOBODY = 65534


def kill(trial: Trial, tally: Tally, tries: int, draw: random.Random) -> None:
    """Kill at the Nth operation, with that write cut in half; then kill what goes on, on other machines too."""
    expected, operations = trial.unbroken()
    for at in _sample(operations, tries, draw):
        trial.renew()
        told = [_kill(trial, tally, at, again=False)]
        if draw.random() < 0.5:
            told.append(_kill(trial, tally, draw.randint(1, operations), again=True))
        # The next one runs elsewhere, or its clock is an hour behind.
        machine = Machine(host=draw.choice(_HOSTS), seconds_late=draw.choice((0, 3600)))
        where = f"{trial.deed.name}, killed at operation {' and '.join(told)}, then on {machine}"
        trial.finish(expected, tally, where, machine)


def _kill(trial: Trial, tally: Tally, at: int, *, again: bool) -> str:
    ended = trial.once(Machine(luck=Luck.KILL, at=at), again=again)
    tally.inputs += 1
    tally.kills += ended.code == KILLED
    done_already = again and ended.refused  # by the first one, to its end; what it made is compared then
    if ended.code not in (0, KILLED) and not done_already:
        tally.lose(f"{trial.deed.name}, to be killed at {at}", str(ended))
    return str(at)


def fill(trial: Trial, tally: Tally, tries: int, draw: random.Random) -> None:
    """A disk that is full, beyond the quota or broken from the Nth write on, and mended afterwards."""
    expected, operations = trial.unbroken(Luck.FULL)
    for at in _sample(operations, tries, draw):
        error = draw.choice(FULL_DISKS)
        where = f"{trial.deed.name}, {errno.errorcode[error]} from write {at} of {operations} on"
        _refuse_then_finish(trial, tally, expected, where, Machine(luck=Luck.FULL, at=at, error=error))


def impoverish(trial: Trial, tally: Tally, tries: int, draw: random.Random) -> None:
    """Few descriptors, little memory, a folder that can't be written."""
    expected, _ = trial.unbroken()
    for _ in range(tries):
        what, poor = draw.choice(_poverties(trial.here, draw))
        _refuse_then_finish(trial, tally, expected, f"{trial.deed.name}, {what}", Machine(), poor=poor)


def _refuse_then_finish(
    trial: Trial,
    tally: Tally,
    expected: object,
    where: str,
    machine: Machine,
    poor: Callable[[], object] = lambda: None,
) -> None:
    """A command that can't be carried out is refused in one line, or it was done; then it is given again."""
    trial.renew()
    ended = trial.once(machine, poor=poor)
    tally.inputs += 1
    trial.here.chmod(0o755)
    if ended.code != 0 and not ended.refused:
        tally.lose(where, str(ended))
    trial.finish(expected, tally, where)


def _poverties(here: Path, draw: random.Random) -> list[tuple[str, Callable[[], object]]]:
    descriptors, megabytes = draw.randint(8, 40), draw.randint(1, 200)
    return [
        (f"{descriptors} descriptors", partial(_limit, resource.RLIMIT_NOFILE, descriptors)),
        (f"{megabytes} MB more", partial(limit_memory, megabytes * 2**20)),
        ("a folder that can't be written", partial(_forbid, here)),
    ]


def _limit(what: int, most: int) -> None:
    resource.setrlimit(what, (most, resource.getrlimit(what)[1]))


def limit_memory(more: int) -> None:
    """Let this process take no more than ``more`` bytes beside what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + more)


def _forbid(folder: Path) -> None:
    folder.chmod(0o555)
    if os.geteuid() == 0:  # to whom no folder is forbidden
        os.setegid(_NOBODY)
        os.seteuid(_NOBODY)


def _sample(operations: int, tries: int, draw: random.Random) -> list[int]:
    return sorted(draw.sample(range(1, operations + 1), min(tries, operations)))
