"""Writes a file so that it is complete or absent, whatever stops the process or the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from fastiseat.errors import UserError


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Write ``parts`` to ``path`` under a temporary name, flush it to the disk, then rename it into place.

    Whatever stops this, ``path`` holds its old content or the new one. :class:`UserError` where the disk is
    full or the folder can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # makes the rename itself last
        finally:
            os.close(directory)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; free space or choose another --out") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def leftovers(folder: Path) -> Iterator[Path]:
    """The temporary files of processes that were killed while they wrote into ``folder``."""
    return folder.glob(".*.tmp")
