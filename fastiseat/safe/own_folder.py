"""A folder of ours that may have come from elsewhere: what is written into it stays in it."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastiseat.errors import UserError
from fastiseat.safe.writing import LEFT_OVER, write_atomically

LEFT_BEHIND = 3600.0
"""Seconds after which what an unfinished write left counts as a killed one's, where writers take no turns."""


class OwnFolder:
    """A folder, and the folders below it that are its own.

    The folder itself may be a symbolic link, which its user chose. Below it no link is followed: a folder that came
    from an archive or a shared disk could else have whoever goes on with it overwrite any file that is theirs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: Path | str, *parts: bytes | memoryview) -> None:
        """``name``, relative to the folder, complete or as it was; :class:`UserError` where that can't be."""
        file = self.path / name
        self.folder(file.parent.relative_to(self.path))
        write_atomically(file, *parts)

    def folder(self, name: Path | str = "") -> Path:
        """A folder below, which is made where it is missing; :class:`UserError` where a link stands in its place."""
        here = self.path
        try:
            here.mkdir(parents=True, exist_ok=True)
            for part in Path(name).parts:
                here = here / part
                here.mkdir(exist_ok=True)
                _require_own(here)
        except OSError as error:
            raise _unwritable(here, error) from error
        return here

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A hidden folder below, which is gone after the block; what a killed one left, :meth:`sweep` removes."""
        folder = self.folder(f".scratch.{secrets.token_hex(8)}.tmp")
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def require_writable(self, name: Path | str = "") -> None:
        """:class:`UserError` where nothing can be written into the folder ``name``; one that is missing stays so."""
        place = self.path / name
        there = next(each for each in (place, *place.parents) if os.path.lexists(each))
        if self.path in there.parents:
            _require_own(there)
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            raise _unwritable(place, error) from error

    def open_lock(self, name: str) -> int:
        """As :func:`open_lock`, in this folder."""
        return open_lock(self.folder() / name)

    def sweep(self, name: Path | str = "", *, idle: float = 0.0) -> list[Path]:
        """Remove what killed writes left in the folder ``name``; what was removed.

        ``idle``: seconds that nobody has written to a file for. Who does not hold the folder's lock gives more than a
        write takes, as others may be at theirs.
        """
        return [path for path in self._left_over(Path(name)) if _idle(path) >= idle and _removed(path)]

    def _left_over(self, name: Path) -> Iterator[Path]:
        here = self.path
        for part in name.parts:
            here = here / part
            if here.is_symlink():
                return
        if here.is_dir():
            yield from (Path(entry.path) for entry in os.scandir(here) if _is_left_over(entry))


def open_lock(file: Path) -> int:
    """A descriptor to lock, or to write by, of a file that is made where it is missing; its content is left as it is.

    Raises:
        OSError: it can't be opened.
        UserError: it is a symbolic link, whose target would be locked or changed instead, or no file.
    """
    if file.is_symlink():
        raise _link(file)
    # Between that look and here a link is refused by the system, in its own words.
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    number = os.open(file, flags, 0o666)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise UserError(f"{file} is no file: remove it, or choose another folder")
    return number


def _is_left_over(entry: os.DirEntry[str]) -> bool:
    is_ours = entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
    return LEFT_OVER.fullmatch(entry.name) is not None and is_ours


def _idle(path: Path) -> float:
    try:
        return max(0.0, time.time() - path.lstat().st_mtime)
    except OSError:  # gone since it was listed
        return 0.0


def _removed(path: Path) -> bool:
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError:  # a file too many is no reason to end a run; the next one tries again
        return False
    return True


def _require_own(folder: Path) -> None:
    if folder.is_symlink():
        raise _link(folder)


def _unwritable(place: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {place}: {error.strerror}; mend that, or choose another --out")


def _link(path: Path) -> UserError:
    return UserError(
        f"{path} is a symbolic link, and nothing is written through one: replace it by what it points to, or choose "
        "another --out"
    )
