"""A whole training split as the one file that FFCV reads, and ``info.json``, which tells what it is.

Like a store it is a folder that appears when it is complete, and never changes afterwards. The file is the one that
FFCV's own writer makes, byte for byte, but written block by block in this process: a disk that fills up is an error
here, and a wait without end there.
"""

from __future__ import annotations

import json
import os
import shlex
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter

from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.base import Split
from fastiseat.pipelines.protocol.progress import Progress
from fastiseat.pipelines.stores.beton_content import image_shape, page_contents, require_readable, sample_offsets
from fastiseat.pipelines.stores.beton_format import (
    VERSION,
    Kind,
    Layout,
    fill_pages,
    page_size_for,
    place_samples,
    read_tables,
    table_of_places,
    tables_agree,
)
from fastiseat.pipelines.stores.checksums import file_checksum
from fastiseat.pipelines.stores.encoded import EncodedSplit
from fastiseat.pipelines.stores.writer import complete_folder, exclusive, first_writable, require_space, write_info
from fastiseat.safe import read_file
from fastiseat.safe.reading import TEXT
from fastiseat.version import __version__

FORMAT = 1
FILE = "train.beton"
PREPARED_AS: dict[Kind, str] = {"packed": "ffcv", "jpeg": "ffcv-jpeg"}
"""What each kind is called where it is prepared: ``--format``, and the end of the folder's name."""

_DISAGREES = "damaged: its header doesn't agree with info.json"
_Count = Annotated[int, Field(gt=0, lt=2**40)]


@dataclass(frozen=True, kw_only=True)
class BetonInfo:
    """What ``info.json`` tells about the file beside it.

    Attributes:
        format: of this folder.
        beton_version: of the file, as FFCV counts.
        name: of the data set.
        fingerprint: of the arrays that the data set was prepared as.
        kind: ``packed`` pixels, or the ``jpeg`` files that they came in.
        shape: of an image as it is read, (H, W, C).
        samples: in the training split.
        page_size: of the file, in bytes.
        num_pages: of the file.
        bytes: of the file.
        tables: CRC-32 of everything in the file but the images.
        versions: of what wrote it.
        checksum: of the whole file; empty where it was not noted.
    """

    format: int
    beton_version: int
    name: str
    fingerprint: str
    kind: Kind
    shape: tuple[_Count, _Count, _Count]
    samples: _Count
    page_size: _Count
    num_pages: _Count
    bytes: _Count
    tables: int
    versions: dict[str, str]
    checksum: str = ""

    @property
    def layout(self) -> Layout:
        """Where everything lies in the file."""
        return Layout(
            kind=self.kind,
            shape=self.shape,
            samples=self.samples,
            page_size=self.page_size,
            num_pages=self.num_pages,
        )


@dataclass(frozen=True, kw_only=True)
class Beton:
    """A folder that holds a training split as FFCV reads it."""

    path: Path
    info: BetonInfo

    @classmethod
    def at(cls, path: Path) -> Beton | None:
        """The beton in ``path``, or None where there is none; :class:`UserError` for a damaged ``info.json``."""
        try:
            content = read_file(path / "info.json", most=TEXT)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; check its permissions") from error
        try:
            stored = json.loads(content)
            found = (stored["format"], stored["beton_version"])
            if found != (FORMAT, VERSION):
                raise UserError(
                    f"{path}: written in format {found[0]} for .beton version {found[1]}, this version reads {FORMAT} "
                    f"and {VERSION}; {_again('NAME', path.suffix.removeprefix('.'))}"
                )
            return cls(path=path, info=TypeAdapter(BetonInfo).validate_json(content, strict=True))
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            remedy = _again("NAME", path.suffix.removeprefix("."))
            raise UserError(f"{path / 'info.json'}: damaged ({type(error).__name__}); {remedy}") from error

    @property
    def file(self) -> Path:
        """The file that FFCV reads."""
        return self.path / FILE

    def check(self, *, name: str, fingerprint: str, kind: Kind) -> None:
        """:class:`UserError` unless this is data set ``name`` with ``fingerprint``, of ``kind``, and undamaged.

        Everything that FFCV follows is read and checked; the images themselves aren't.
        """
        remedy = _again(name, PREPARED_AS[kind])
        wanted = {"data set": name, "fingerprint": fingerprint, "kind": kind}
        found = {"data set": self.info.name, "fingerprint": self.info.fingerprint, "kind": self.info.kind}
        for what in wanted:
            if found[what] != wanted[what]:
                raise UserError(f"{self.path}: its {what} is {found[what]}, {wanted[what]} is needed; {remedy}")
        try:
            problem = self._damage()
        except OSError as error:
            problem = f"unreadable ({error.strerror or error})"
        except OverflowError:  # a page or an image larger than FFCV has bits for
            problem = _DISAGREES
        if problem:
            raise UserError(f"{self.file}: {problem}; {remedy}")

    def verified(self) -> bool:
        """Whether the file was looked at whole, and is what was written; False where nothing was noted of that.

        Raises:
            UserError: it is something else.
        """
        if self.info.checksum and file_checksum(self.file) != self.info.checksum:
            remedy = _again(self.info.name, PREPARED_AS[self.info.kind])
            raise UserError(f"{self.file}: damaged: it is not what was written; {remedy}")
        return bool(self.info.checksum)

    def _damage(self) -> str:
        """What is wrong with the file, or nothing."""
        size, layout = self.file.stat().st_size, self.info.layout
        if size != self.info.bytes:
            return f"{size} bytes, {self.info.bytes} were written: it is truncated or not of this folder"
        # The sizes of the tables are looked at before memory is taken for them.
        if size != layout.size or self.info.page_size & (self.info.page_size - 1):
            return _DISAGREES
        head, rows, places = read_tables(self.file, layout)
        if not tables_agree(layout, head, rows, places):
            return _DISAGREES
        if _checksum(head, rows, places) != self.info.tables:
            return "damaged: its labels or its table of images aren't those that were written"
        return ""


def write_beton(
    path: Path, train: Split | EncodedSplit, *, name: str, fingerprint: str, progress: Progress
) -> Beton:
    """Make ``path`` hold the training split and nothing else, in place of what is there.

    Pixels are stored as they are. JPEG files are stored byte for byte, and are decoded to three channels when they
    are read, also grey ones.

    Raises:
        UserError: it can't be written, or FFCV could not decode one of the files.
    """
    offsets = sample_offsets(train)
    page_size = page_size_for(int(np.diff(offsets).max()))
    pages = fill_pages(offsets, page_size)
    layout = Layout(
        kind="packed" if isinstance(train, Split) else "jpeg",
        shape=image_shape(train),
        samples=len(train),
        page_size=page_size,
        num_pages=len(pages),
    )
    first_writable([path])
    require_space(path, layout.size)
    if isinstance(train, EncodedSplit):
        require_readable(train, name, progress)
    places = place_samples(offsets, pages, layout)
    tables = layout.rows(places, train.labels), table_of_places(places, np.diff(offsets))
    info = _describe(layout, name=name, fingerprint=fingerprint, tables=_checksum(layout.head(), *tables))
    with exclusive(path, progress), complete_folder(path) as temporary:
        _write_file(temporary / FILE, layout, *tables, page_contents(train, pages, progress))
        info = replace(info, checksum=file_checksum(temporary / FILE))
        write_info(temporary, info)
    return Beton(path=path, info=info)


def _describe(layout: Layout, *, name: str, fingerprint: str, tables: int) -> BetonInfo:
    return BetonInfo(
        format=FORMAT,
        beton_version=VERSION,
        name=name,
        fingerprint=fingerprint,
        kind=layout.kind,
        shape=layout.shape,
        samples=layout.samples,
        page_size=layout.page_size,
        num_pages=layout.num_pages,
        bytes=layout.size,
        tables=tables,
        versions={"fastiseat": __version__},
    )


def _again(name: str, prepared_as: str) -> str:
    return (
        f"run: fastiseat data prepare {shlex.quote(name)} --format {prepared_as or PREPARED_AS['packed']} --force"
    )


def _write_file(
    path: Path,
    layout: Layout,
    rows: npt.NDArray[np.void],
    table: npt.NDArray[np.void],
    contents: Iterator[npt.NDArray[np.uint8]],
) -> None:
    with path.open("wb") as file:
        file.write(layout.head())
        file.write(rows.tobytes())
        file.write(bytes(layout.data_start - file.tell()))
        for content in contents:
            file.write(content.data)
            file.write(bytes(layout.page_size - len(content)))
        file.write(table.tobytes())
        assert file.tell() == layout.size
        file.flush()
        os.fsync(file.fileno())


def _checksum(head: bytes, *tables: npt.NDArray[np.void]) -> int:
    checksum = zlib.crc32(head)
    for table in tables:
        checksum = zlib.crc32(table.tobytes(), checksum)
    return checksum
