"""Places as users write them: with ``~``, through links, or leading nowhere."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from fastiseat.errors import UserError

_NO_PLACE = (errno.ELOOP, errno.ENAMETOOLONG)


def expanded(path: Path | str) -> Path:
    """With its home in the place of a ``~``; :class:`UserError` where none is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: no home folder is known for that: set HOME, or write the path out") from error


def resolved(path: Path | str) -> Path:
    """The absolute place, without links, of what need not be there; :class:`UserError` where links go in a circle."""
    place = expanded(path)
    try:
        place.stat()
    except FileNotFoundError:
        pass  # which is told by whoever needs it
    except (OSError, ValueError) as error:
        if not isinstance(error, OSError) or error.errno in _NO_PLACE:
            why = getattr(error, "strerror", None) or str(error)
            raise UserError(f"{path}: {why}; name another place") from error
    return Path(os.path.realpath(place))
