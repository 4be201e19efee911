"""The reader of each kind of files."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from fastiseat.names.data import DATA
from fastiseat.pipelines.protocol.base import DataSet
from fastiseat.pipelines.protocol.source import Source


class Reader(Protocol):
    """What ``pipelines/data/formats/NAME.py`` defines for data that lies in files."""

    def read_source(self, kind: str, path: Path, image_size: int | None) -> AbstractContextManager[Source]:
        """The files of ``kind`` at ``path``, which is there; ``image_size`` where the kind's images may be resized."""


class Bundled(Protocol):
    """What it defines for data that comes with a package."""

    def read(self) -> DataSet:
        """The arrays themselves."""


def read_source(kind: str, path: Path, image_size: int | None) -> AbstractContextManager[Source]:
    """The files of ``kind`` at ``path``. Their reader is imported only now: some bring large libraries."""
    return cast(Reader, import_module(DATA[kind].home)).read_source(kind, path, image_size)


def read_bundled(kind: str) -> DataSet:
    """The data set ``kind``, which comes with a package; that may take a second to import."""
    return cast(Bundled, import_module(DATA[kind].home)).read()
