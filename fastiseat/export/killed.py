"""What killed exports leave: a hidden folder beside their file, and a card without its file or a file without it."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastiseat.errors import UserError
from fastiseat.lock import flock
from fastiseat.mounts import is_local
from fastiseat.safe import open_lock, read_file
from fastiseat.safe.reading import NETWORK, TEXT

_LOCK = "lock"
_LEFT_BEHIND = 3600.0  # seconds, which no export takes to mark its folder


@contextmanager
def held(folder: Path) -> Iterator[bool | None]:
    """Mark the folder of an export as one that is at work; the mark ends with the process, however that ends.

    Gives whether nobody else had marked it; None where the file system has no locks.
    """
    number = open_lock(folder / _LOCK)
    try:
        yield flock(number)
    finally:
        os.close(number)


def sweep(out: Path, card: Path) -> None:
    """Remove the folders of killed exports to ``out``, and ``card`` where it is that of a file that never came.

    A card that was to follow its file does so.
    """
    for folder in _folders(out):
        if _is_dead(folder):
            if not out.exists() and _is_card_of(card, folder / out.name):
                card.unlink()
            if not card.exists() and _is_card_of(folder / card.name, out):
                (folder / card.name).replace(card)
            shutil.rmtree(folder, ignore_errors=True)


def _folders(out: Path) -> list[Path]:
    with os.scandir(out.parent) as entries:
        return [
            Path(entry.path)
            for entry in entries
            if entry.name.startswith(f".{out.name}.")
            and entry.name.endswith(".tmp")
            and entry.is_dir(follow_symlinks=False)
        ]


def _is_dead(folder: Path) -> bool:
    """Whether nobody is at work in it. Its age tells where its mark can't: not made yet, or another machine's."""
    match _is_free(folder):
        case False:
            return False
        case True if is_local(folder):
            return True
    return time.time() - folder.stat().st_mtime >= _LEFT_BEHIND


def _is_free(folder: Path) -> bool | None:
    if not (folder / _LOCK).exists():
        return None
    try:
        with held(folder) as free:
            return free
    except (OSError, UserError):
        return False


def _is_card_of(card: Path, file: Path) -> bool:
    if not (card.is_file() and file.is_file()):
        return False
    digest = hashlib.sha256(read_file(file, most=NETWORK)).hexdigest()
    return digest in read_file(card, most=TEXT).decode(errors="replace")
