"""Arrays in an ``.npz`` file of numpy's, known by their headers; objects are never unpickled."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.source import block_size
from fastiseat.pipelines.stores.npy import read_header
from fastiseat.safe import open_file

_ZIP_HEADER = 30
_READ_AT_ONCE = 2**20


@dataclass(frozen=True, kw_only=True)
class SavedArray:
    """An array of plain numbers in C's order, in an open archive.

    Attributes:
        path: of the archive.
        where: file and name, the beginning of messages.
        header_size: bytes of the member before the numbers.
    """

    archive: zipfile.ZipFile
    path: Path
    name: str
    where: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    header_size: int

    @property
    def member(self) -> str:
        """What the archive calls it."""
        return f"{self.name}.npy"

    def blocks(self, step: int) -> Iterator[npt.NDArray[Any]]:
        """``step`` rows at a time; :class:`UserError` where the file is damaged."""
        with damage_told(self.where):
            file = self.archive.open(self.member)
        with file:
            with damage_told(self.where):
                file.read(self.header_size)
            for first in range(0, self.shape[0], step):
                shape = (min(step, self.shape[0] - first), *self.shape[1:])
                with damage_told(self.where):
                    content = file.read(math.prod(shape) * self.dtype.itemsize)
                    block = np.frombuffer(content, self.dtype).reshape(shape)
                yield block

    def read(self) -> npt.NDArray[Any]:
        """The whole array, of one axis at least; :class:`UserError` where it is damaged or does not fit."""
        step = block_size(self.shape[1:])
        try:
            found = np.empty(self.shape, self.dtype)
        except MemoryError as error:
            raise UserError(f"{self.where}: {error}; save it with numpy.savez, uncompressed") from error
        for first, block in zip(range(0, self.shape[0], step), self.blocks(step), strict=True):
            found[first : first + step] = block
        return found

    def mapped(self) -> npt.NDArray[Any] | None:
        """The whole array, mapped into memory and read-only, or None where it is compressed.

        It is read once, for its checksum; :class:`UserError` where that is wrong.
        """
        info = self.archive.getinfo(self.member)
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        with damage_told(self.where):
            with self.archive.open(info) as file:
                while file.read(_READ_AT_ONCE):
                    pass
            # What stands before the member tells the size of its own names, the directory at the end does not.
            with open_file(self.path) as packed:
                packed.seek(info.header_offset)
                name, extra = struct.unpack("<26x2H", packed.read(_ZIP_HEADER))
                start = info.header_offset + _ZIP_HEADER + name + extra + self.header_size
                return np.asarray(np.memmap(packed, self.dtype, "r", start, self.shape))


def find_array(archive: zipfile.ZipFile, names: Sequence[str], path: Path) -> SavedArray | None:
    """The first array of ``names`` that ``archive``, opened from ``path``, holds, or None.

    Raises:
        UserError: damaged, or no plain numbers in C's order.
    """
    members = set(archive.namelist())
    name = next((name for name in names if f"{name}.npy" in members), None)
    if name is None:
        return None
    where = f"{path}: {name}"
    with damage_told(where), archive.open(f"{name}.npy") as file:
        shape, fortran, dtype = read_header(file)
        header_size = file.tell()
    if dtype.hasobject:
        raise UserError(f"{where}: holds objects, which are never unpickled; save numbers")
    if fortran:
        raise UserError(f"{where}: saved in Fortran's order; save numpy.ascontiguousarray(array)")
    if archive.getinfo(f"{name}.npy").file_size != header_size + math.prod(shape) * dtype.itemsize:
        raise UserError(f"{where}: {dtype} {shape} is not the size of what it holds; save it again")
    return SavedArray(
        archive=archive, path=path, name=name, where=where, shape=shape, dtype=dtype, header_size=header_size
    )


@contextmanager
def damage_told(where: str) -> Iterator[None]:
    """Turn what reading a damaged archive raises into a :class:`UserError` that begins with ``where``."""
    try:
        yield
    except Exception as error:  # damaged bytes make zipfile and numpy fail in too many ways to list
        told = error.strerror if isinstance(error, OSError) else None
        reason = " ".join((told or str(error)).split())  # some of numpy's take several lines
        raise UserError(f"{where}: damaged, truncated or not saved by numpy ({reason}); save it again") from error
