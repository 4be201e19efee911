"""What a failed write is told as, wherever data is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastiseat.errors import UserError


@contextmanager
def write_failures_told(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block into a :class:`UserError` that names ``path`` and a remedy."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another --data-dir"
        ) from error
