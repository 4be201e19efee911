"""Prepared data: plain ``.npy`` files that training maps into memory, and ``info.json``, which tells what they are.

A store is a folder that appears when it is complete, and never changes afterwards, but for ``source.json``: that notes
when its source was last seen to hold what was prepared.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.base import DataSet, Split, fingerprint
from fastiseat.pipelines.protocol.progress import SILENT, Progress
from fastiseat.pipelines.stores.checksums import of_splits
from fastiseat.pipelines.stores.npy import read_header
from fastiseat.safe import open_file, read_file
from fastiseat.safe.reading import TEXT

FORMAT = 1
AGAIN = "prepare it again with --force"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Info:
    """What ``info.json`` tells about the arrays beside it."""

    format: int
    name: str
    class_names: tuple[str, ...]
    train_shape: tuple[int, int, int, int]
    test_shape: tuple[int, int, int, int]
    fingerprint: str
    official: bool | None
    remark: str
    source: str
    md5s: dict[str, str]
    image_size: int | None
    date: str
    seconds: float
    versions: dict[str, str]
    checksums: dict[str, str] = field(default_factory=dict)
    """Of the arrays, by the names of their files."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """A folder of prepared arrays."""

    path: Path
    info: Info

    @classmethod
    def at(cls, path: Path) -> Store | None:
        """The store in ``path``, or None where there is none; :class:`UserError` for a damaged one."""
        info = read_info(path, Info, FORMAT)
        return None if info is None else cls(path=path, info=info)

    def open(self) -> DataSet:
        """The data set, its arrays mapped into memory and read-only."""
        train, test = self._splits()
        if Store.at(self.path) != self:  # the maps are of whichever files were there when they were opened
            raise UserError(f"{self.path}: another process has just prepared it anew; give the command again")
        try:
            return DataSet(
                name=self.info.name,
                num_classes=len(self.info.class_names),
                train=train,
                test=test,
                fingerprint=self.info.fingerprint,
                official=self.info.official,
                class_names=self.info.class_names,
                prepared=self.path.absolute(),
                checksums=self.info.checksums,
            )
        except UserError as error:  # of what no data set that was prepared had
            remedy = f"run: fastiseat data prepare {self.info.name} --force"
            raise UserError(f"{self.path}: damaged: {error}; {remedy}") from error

    def verify(self, progress: Progress = SILENT) -> None:
        """Read everything again; :class:`UserError` where it is not what was prepared."""
        found = self.compute_fingerprint(progress)
        if found != self.info.fingerprint:
            raise UserError(
                f"{self.path}: damaged: its fingerprint is {found}, and was {self.info.fingerprint} when it was "
                f"prepared; {AGAIN}"
            )

    def compute_fingerprint(self, progress: Progress = SILENT) -> str:
        """The fingerprint of what lies in the files now."""
        return fingerprint(*self._splits(), progress)

    def compute_checksums(self) -> dict[str, str]:
        """Those of the arrays that lie in the files now."""
        train, test = self._splits()
        return of_splits(train=train, test=test)

    def size(self) -> int:
        """Bytes on the disk."""
        return sum(file.stat().st_size for file in self.path.iterdir())

    def _splits(self) -> tuple[Split, Split]:
        return self._split("train", self.info.train_shape), self._split("test", self.info.test_shape)

    def _split(self, split: str, shape: tuple[int, int, int, int]) -> Split:
        return Split(
            images=map_array(self.path / f"{split}_images.npy", shape, np.dtype(np.uint8)),
            labels=map_array(self.path / f"{split}_labels.npy", shape[:1], np.dtype(np.int64)),
        )


def read_info(path: Path, description: type[T], current: int) -> T | None:
    """``info.json`` in the folder ``path``, or None where there is none; ``current`` is the format that is read.

    Raises:
        UserError: damaged, or of another format.
    """
    try:
        content = read_file(path / "info.json", most=TEXT)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; check its permissions") from error
    try:
        found = json.loads(content)["format"]
        if found != current:
            raise UserError(f"{path}: written in format {found}, this version reads {current}; {AGAIN}")
        return TypeAdapter(description).validate_json(content, strict=True)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(f"{path / 'info.json'}: damaged ({type(error).__name__}); {AGAIN}") from error


def map_array(file: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The array in ``file``, mapped and read-only; :class:`UserError` unless it has that shape and type."""
    try:
        # Not numpy.load, which takes archives and pickles too.
        with open_file(file) as content:
            found, fortran, kind = read_header(content)
            array = _mapped(content, found, kind)
    except Exception as error:  # damaged bytes make the reader of its header fail in too many ways to list
        raise UserError(f"{file}: missing, truncated or unreadable ({error}); {AGAIN}") from error
    if (found, kind, fortran) != (shape, dtype, False):
        raise UserError(f"{file}: {kind} {found}, {dtype} {shape} was prepared; {AGAIN}")
    return np.asarray(array)


def _mapped(content: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """What follows the header; ``ValueError`` unless it is numbers, and the whole rest of the file."""
    if dtype.hasobject:
        raise ValueError("objects, which are never unpickled")
    begins, whole = content.tell(), os.fstat(content.fileno()).st_size
    if (needed := begins + math.prod(shape) * dtype.itemsize) != whole:
        raise ValueError(f"{whole:,} bytes of {needed:,}")
    return np.memmap(content, dtype, "r", begins, shape)
