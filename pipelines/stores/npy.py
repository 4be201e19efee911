"""The header of an array that numpy saved, read with no more memory than a header takes."""

from __future__ import annotations

from typing import IO, Any

import numpy as np
import numpy.lib.format as npy

_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_LONGEST = 2**16


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in Fortran's order, and dtype; ``file`` is where the numbers begin afterwards.

    Raises whatever numpy does where the bytes are damaged: there are too many ways to list.
    """
    shape, fortran, dtype = _READERS[npy.read_magic(file)](_Beginning(file))  # type: ignore[arg-type]
    return shape, fortran, dtype


class _Beginning:
    """A file that ends after the longest header: numpy takes memory for as much as the header claims."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left = file, _LONGEST

    def read(self, size: int) -> bytes:
        content = self._file.read(min(size, self._left))
        self._left -= len(content)
        return content
