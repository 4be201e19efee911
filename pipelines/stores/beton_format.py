"""The ``.beton`` file as FFCV 1.0 reads it: a header, a description of the two fields, one row a sample, pages of
content, and a table of where each sample's content lies. Needs no FFCV.

FFCV follows these numbers without looking at them, so a wrong one would be a crash of the process.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fastiseat.safe import open_file

Kind = Literal["packed", "jpeg"]

VERSION = 2
FIELDS = ("image", "label")

_HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
_FIELD = np.dtype([("type_id", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", 1024)], align=True)
_PLACE = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
_NDARRAY = np.dtype([("shape", "<u8", 32), ("type_length", "<u8")])
_JPEG = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])

# FFCV's numbers of its field types, and of the one of an image's two modes that is used.
_INT, _RGB_IMAGE, _NDARRAY_TYPE = 1, 2, 4
_JPEG_MODE = 0

_SMALLEST_PAGE = 1 << 23


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where everything lies in a file whose samples have given sizes.

    Attributes:
        kind: ``packed`` pixels or ``jpeg`` files.
        shape: of an image, (H, W, C).
        samples: their number.
        page_size: bytes of a page, a power of two; no sample lies in two pages.
        num_pages: of content.
    """

    kind: Kind
    shape: tuple[int, int, int]
    samples: int
    page_size: int
    num_pages: int

    @property
    def row(self) -> np.dtype[Any]:
        """What is told of each sample: where its image lies, and its label."""
        return np.dtype([("", "<u8" if self.kind == "packed" else _JPEG), ("", "<i8")], align=True)

    @property
    def data_start(self) -> int:
        """The first byte of the first page."""
        rows_end = self.rows_start + self.samples * self.row.itemsize
        return -(-rows_end // self.page_size) * self.page_size

    @property
    def rows_start(self) -> int:
        """The first byte of the rows."""
        return _HEADER.itemsize + len(FIELDS) * _FIELD.itemsize

    @property
    def places_start(self) -> int:
        """The first byte of the table of places."""
        return self.data_start + self.num_pages * self.page_size

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.places_start + self.samples * _PLACE.itemsize

    def head(self) -> bytes:
        """Header and description of the fields."""
        header = np.array((VERSION, len(FIELDS), self.page_size, self.samples, self.places_start), dtype=_HEADER)
        fields = np.zeros(len(FIELDS), dtype=_FIELD)
        for field, name in zip(fields, FIELDS, strict=True):
            field["name"][: len(name)] = np.frombuffer(name.encode(), dtype=np.uint8)
        fields["type_id"] = (_NDARRAY_TYPE if self.kind == "packed" else _RGB_IMAGE, _INT)
        if self.kind == "packed":
            arguments = np.frombuffer(_ndarray_arguments(self.shape), dtype=np.uint8)
            fields[0]["arguments"][: len(arguments)] = arguments
        return header.tobytes() + fields.tobytes()

    def rows(self, places: npt.NDArray[np.uint64], labels: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """The rows of samples whose content begins at ``places``."""
        rows = np.zeros(self.samples, dtype=self.row)
        rows["f1"] = labels
        if self.kind == "packed":
            rows["f0"] = places
        else:
            rows["f0"]["mode"] = _JPEG_MODE
            rows["f0"]["height"], rows["f0"]["width"], _ = self.shape
            rows["f0"]["data_ptr"] = places
        return rows


def _ndarray_arguments(shape: tuple[int, int, int]) -> bytes:
    dtype = json.dumps(np.dtype(np.uint8).descr).encode()
    arguments = np.zeros(1, dtype=_NDARRAY)
    arguments["shape"][0, : len(shape)] = shape
    arguments["type_length"] = len(dtype)
    return arguments.tobytes() + dtype


def page_size_for(largest: int) -> int:
    """The page that FFCV itself would take, or the next power of two that holds a sample of ``largest`` bytes."""
    return max(_SMALLEST_PAGE, 1 << (largest - 1).bit_length())


def fill_pages(offsets: npt.NDArray[np.int64], page_size: int) -> list[tuple[int, int]]:
    """The samples of each page, from the first to before the second of two numbers; sample i has the bytes
    ``offsets[i]`` … ``offsets[i + 1]`` of all content.
    """
    bounds = [0]
    while bounds[-1] < len(offsets) - 1:
        bounds.append(int(np.searchsorted(offsets, offsets[bounds[-1]] + page_size, side="right")) - 1)
    return list(pairwise(bounds))


def place_samples(
    offsets: npt.NDArray[np.int64], pages: list[tuple[int, int]], layout: Layout
) -> npt.NDArray[np.uint64]:
    """The byte of the file that each sample begins at."""
    firsts = np.array([first for first, _ in pages])
    page = np.repeat(np.arange(len(pages)), [last - first for first, last in pages])
    within = offsets[:-1] - offsets[firsts][page]
    places: npt.NDArray[np.int64] = layout.data_start + page * layout.page_size + within
    return places.astype(np.uint64)


def table_of_places(places: npt.NDArray[np.uint64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """The table that closes the file."""
    table = np.zeros(len(places), dtype=_PLACE)
    table["sample_id"], table["ptr"], table["size"] = np.arange(len(places)), places, sizes
    return table


def read_tables(path: Path, layout: Layout) -> tuple[bytes, npt.NDArray[Any], npt.NDArray[Any]]:
    """Head, rows and places of a file that has the size of ``layout``."""
    with open_file(path) as file:
        head = file.read(layout.rows_start)
        rows = np.fromfile(file, dtype=layout.row, count=layout.samples)
        file.seek(layout.places_start)
        places = np.fromfile(file, dtype=_PLACE, count=layout.samples)
    return head, rows, places


def tables_agree(layout: Layout, head: bytes, rows: npt.NDArray[Any], table: npt.NDArray[Any]) -> bool:
    """Whether every number that FFCV will follow is one that a file of ``layout`` can have."""
    if head != layout.head() or not len(rows) == len(table) == layout.samples:
        return False
    places, sizes = table["ptr"], table["size"]
    ends = places + sizes
    fixed = int(np.prod(layout.shape)) if layout.kind == "packed" else None
    return bool(
        np.array_equal(table["sample_id"], np.arange(layout.samples, dtype=np.uint64))
        and (sizes > 0).all()
        and (sizes <= layout.page_size).all()
        and (fixed is None or (sizes == fixed).all())
        and places[0] >= layout.data_start
        and (places[1:] >= ends[:-1]).all()
        and (places < layout.places_start).all()
        and (ends <= layout.places_start).all()
        and (rows["f1"] >= 0).all()
        and layout.rows(places, rows["f1"]).tobytes() == rows.tobytes()
    )
