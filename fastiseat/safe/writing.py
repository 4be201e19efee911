"""Writes a file so that it is complete or absent, whatever stops the process or the machine."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from fastiseat.errors import UserError

LEFT_OVER = re.compile(r"\..+\.(?:[0-9a-f]{16}|\d+)\.tmp")
"""The names of what killed processes leave, those of earlier versions too, which took the process's number."""


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Write ``parts`` to ``path`` under a temporary name, flush it to the disk, then rename it into place.

    Whatever stops this, ``path`` holds its old content or the new one. The temporary file is made anew, under a name
    where nobody can have laid a link; a link at ``path`` itself is replaced and not followed.

    Raises:
        UserError: the disk is full, or the folder can't be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_new(temporary, parts)
        temporary.replace(path)
        flush_folder(path.parent)  # makes the rename itself last
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; free space or choose another --out") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _write_new(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    with path.open("xb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Let the names in ``folder`` last; :class:`OSError` where the disk can't."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
