"""The one door for files that others may have made: a regular file, no longer than its kind, then its content.

A pipe or a socket in the place of a file would keep a reader waiting for ever, a device would never end, and a sparse
file of a few blocks can claim more than the memory holds.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

TEXT = 64 * 2**20
"""Bytes that settings, metrics, results and verdicts have at most."""
LISTING = 2**30
"""Bytes that a list of a data set's files has at most."""
IMAGE = 256 * 2**20
"""Bytes that one encoded image has at most."""
BATCH = 2**30
"""Bytes that a pickle of CIFAR's, or its archive, has at most."""
ARRAYS = 4 * 2**30
"""Bytes that other pickles, MATLAB files and releases' archives have at most."""
NETWORK = 64 * 2**30
"""Bytes that weights or a checkpoint have at most."""

_AT_ONCE = 2**16
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_file(path: Path, *, most: int | None = None) -> BufferedReader:
    """``path``, open for reading from its beginning.

    Symbolic links are followed: nothing that is read can be harmed. Never waits for whoever may write into a pipe.

    Args:
        path: the file.
        most: bytes that one of its kind has at most.

    Raises:
        OSError: as ``open`` does, and with a reason of its own where ``path`` is no regular file, or longer.
    """
    _require_regular(path, path.stat())  # a socket can't be opened, and says so in the system's words
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        status = os.fstat(number)
        _require_regular(path, status)
        if most is not None and status.st_size > most:
            raise too_long(path, status.st_size, most)
    except BaseException:
        os.close(number)
        raise
    return os.fdopen(number, "rb")


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, and a file is needed", str(path))


def read_file(path: Path, *, most: int | None = None) -> bytes:
    """All of it; raises as :func:`open_file` does, and takes no more memory than the file is long."""
    with open_file(path, most=most) as file:
        content = file.read(os.fstat(file.fileno()).st_size)
        while more := file.read(_AT_ONCE):  # it has grown, or lies where files have no length
            content += more
            if most is not None and len(content) > most:
                raise too_long(path, len(content), most)
    return content


def too_long(path: Path, size: int, most: int) -> OSError:
    """The error for a file that is longer than its kind."""
    return OSError(errno.EFBIG, f"it has {size:,} bytes, and one of its kind at most {most:,}", str(path))
