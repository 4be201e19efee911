"""Folders that came from elsewhere: files of theirs cut, flipped, swapped, linked, replaced by what is no file."""

import os
import random
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from torture.campaigns import limit_memory
from torture.deeds import Results
from torture.shim import Luck, Machine
from torture.trial import Tally, Trial, differences

_MINE = b"precious"
_ENOUGH = 2**31
"""Bytes, which a file without an end is to hit before the machine's other processes do."""
Edit = Callable[[Path, Path, Path, random.Random], object]
"""Changes a file, given also another run's of the same name, a file of the user's own and a source of choices."""


def _cut(file: Path, other: Path, mine: Path, draw: random.Random) -> None:
    os.truncate(file, draw.randrange(file.stat().st_size + 1))


def _flip(file: Path, other: Path, mine: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(content)


def _fill(file: Path, other: Path, mine: Path, draw: random.Random) -> None:
    file.write_bytes(draw.randbytes(file.stat().st_size))


def _replaced(make: Callable[[Path, Path, Path], object]) -> Edit:
    def edit(file: Path, other: Path, mine: Path, draw: random.Random) -> None:
        file.unlink()
        make(file, other, mine)

    return edit


EDITS: dict[str, Edit] = {
    "cut": _cut,
    "flipped": _flip,
    "filled with noise": _fill,
    "swapped": _replaced(lambda file, other, mine: other.exists() and shutil.copy(other, file)),
    "removed": _replaced(lambda file, other, mine: None),
    "a link to mine": _replaced(lambda file, other, mine: file.symlink_to(mine)),
    "a link to itself": _replaced(lambda file, other, mine: file.symlink_to(file)),
    "a link to what never ends": _replaced(lambda file, other, mine: file.symlink_to("/dev/zero")),
    "a pipe": _replaced(lambda file, other, mine: os.mkfifo(file)),
    "a folder": _replaced(lambda file, other, mine: file.mkdir()),
}


def tamper(trial: Trial, tally: Tally, tries: int, draw: random.Random) -> None:
    """Edit what the command finds: it is refused in one line, or does what it would have done; my own file stays."""
    expected, operations = trial.unbroken()
    own, other = (_begun(trial, name, operations) for name in ("own", "other"))
    mine = trial.here.with_name("mine")
    for _ in range(tries):
        mine.write_bytes(_MINE)
        shutil.rmtree(trial.here)
        shutil.copytree(own, trial.here, symlinks=True)
        edited = _edit(trial.here, other, mine, draw)
        told = " and ".join(f"{name} {what}" for name, what in edited.items())
        _try(trial, tally, expected, f"{trial.deed.name}, {told}", edited)
        if mine.read_bytes() != _MINE:
            tally.lose(f"{trial.deed.name}, {told}", "a file outside was written", 8 * len(_MINE))


def _begun(trial: Trial, name: str, operations: int) -> Path:
    """A copy of the folder after two thirds of the command, which ``other`` gives with another seed."""
    trial.renew()
    trial.once(Machine(luck=Luck.KILL, at=2 * operations // 3), seeded=name == "other")
    copy = trial.here.with_name(name)
    shutil.rmtree(copy, ignore_errors=True)
    return shutil.copytree(trial.here, copy, symlinks=True)


def _edit(here: Path, other: Path, mine: Path, draw: random.Random) -> dict[str, str]:
    """Which files, and how."""
    files = sorted(file for file in here.rglob("*") if file.is_file() and not file.is_symlink())
    edited = {}
    for file in draw.sample(files, min(len(files), draw.choice((1, 1, 2)))):
        what = draw.choice(list(EDITS))
        EDITS[what](file, other / file.relative_to(here), mine, draw)
        edited[str(file.relative_to(here))] = what
    return edited


def _try(trial: Trial, tally: Tally, expected: Results, where: str, edited: Iterable[str]) -> None:
    tally.inputs += 1
    ended = trial.once(again=True, poor=partial(limit_memory, _ENOUGH))
    if ended.code == 0 and trial.deed.checked:
        for name, bits in differences(_but(edited, expected), _but(edited, trial.deed.results(trial.here))):
            tally.lose(where, f"unnoticed, {name} differs by {bits} bits", bits)
    elif ended.code != 0 and not ended.refused:
        tally.lose(where, str(ended))


def _but(edited: Iterable[str], results: Results) -> Results:
    """Without the names of edited files: an old checkpoint that is gone, or no file any more, is not made again."""
    names = results.get("files", b"").decode().split("\n")
    left = (name for name in names if not any(f"/{each}".endswith(f"/{name}") for each in edited))
    return {**results, "files": "\n".join(left).encode()}
