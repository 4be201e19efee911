"""The training images as JPEG files: plain ``.npy`` files beside the prepared arrays of the same images.

Like those, a store is a folder that appears when it is complete, and never changes afterwards.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.progress import Progress
from fastiseat.pipelines.protocol.source import ImageFile, SourceSplit
from fastiseat.pipelines.stores.checksums import checksum, compare
from fastiseat.pipelines.stores.encoded import EncodedSplit
from fastiseat.pipelines.stores.store import AGAIN, Store, map_array, read_info
from fastiseat.pipelines.stores.writer import complete_folder, in_bytes, write_array, write_info, write_whole
from fastiseat.version import __version__

FORMAT = 1
# Decoders agree on grey and on YCbCr, which Pillow calls RGB; each turns CMYK into RGB in its own way.
_MODES = ("L", "RGB")


@dataclass(frozen=True, kw_only=True)
class EncodedInfo:
    """What ``info.json`` tells about the files beside it; ``fingerprint`` is that of the prepared arrays."""

    format: int
    name: str
    fingerprint: str
    samples: int
    bytes: int
    height: int
    width: int
    source: str
    date: str
    seconds: float
    versions: dict[str, str]
    checksums: dict[str, str] = field(default_factory=dict)
    """Of the arrays, by the names of their files."""


@dataclass(frozen=True, kw_only=True)
class EncodedStore:
    """A folder of the training images' JPEG files, in the order of the prepared arrays."""

    path: Path
    info: EncodedInfo

    @classmethod
    def at(cls, path: Path) -> EncodedStore | None:
        """The store in ``path``, or None where there is none; :class:`UserError` for a damaged one."""
        info = read_info(path, EncodedInfo, FORMAT)
        return None if info is None else cls(path=path, info=info)

    @staticmethod
    def beside(packed: Path) -> Path:
        """Where the files of the images that are prepared in ``packed`` lie."""
        return packed.with_name(f"{packed.name}.jpeg")

    def open(self) -> EncodedSplit:
        """The training split, mapped into memory and read-only."""
        samples, int64 = self.info.samples, np.dtype(np.int64)
        offsets = map_array(self.path / "train_offsets.npy", (samples + 1,), int64)
        if offsets[0] != 0 or offsets[-1] != self.info.bytes or (np.diff(offsets) <= 0).any():
            raise UserError(f"{self.path / 'train_offsets.npy'}: damaged: no ascending offsets; {AGAIN}")
        return EncodedSplit(
            data=map_array(self.path / "train_files.npy", (self.info.bytes,), np.dtype(np.uint8)),
            offsets=offsets,
            labels=map_array(self.path / "train_labels.npy", (samples,), int64),
            height=self.info.height,
            width=self.info.width,
        )

    def check(self, *, name: str, fingerprint: str) -> None:
        """:class:`UserError` unless these are the files of the data set ``name`` with this fingerprint."""
        if self.info.name != name:
            raise UserError(f"{self.path}: holds JPEG files of {self.info.name}, not of {name}; {AGAIN}")
        if self.info.fingerprint != fingerprint:
            raise UserError(
                f"{self.path}: holds JPEG files of images with the fingerprint {self.info.fingerprint}, the prepared "
                f"arrays have {fingerprint}; {AGAIN}"
            )

    def verified(self) -> bool:
        """Whether the files were looked at whole, and are what was gathered; False where nothing was noted of that.

        Raises:
            UserError: they are something else.
        """
        remedy = f"run: fastiseat data prepare {self.info.name} --format jpeg --force"
        return bool(self.info.checksums) and compare(
            self.info.checksums, self.compute_checksums(), self.path, remedy
        )

    def compute_checksums(self) -> dict[str, str]:
        """Those of the arrays that lie in the files now."""
        held = self.open()
        return {
            "train_files": checksum(held.data),
            "train_offsets": checksum(held.offsets),
            "train_labels": checksum(held.labels),
        }

    def size(self) -> int:
        """Bytes on the disk."""
        return sum(file.stat().st_size for file in self.path.iterdir())


def write_encoded(path: Path, split: SourceSplit, *, packed: Store, progress: Progress) -> EncodedStore:
    """Make ``path`` hold the files of the training split, and nothing else.

    The caller holds :func:`fastiseat.pipelines.stores.writer.exclusive`. Every file is decoded and compared with
    the pixels in ``packed``, so that a row means the same image in both.

    Raises:
        UserError: a file is no JPEG, is damaged, or isn't what ``packed`` was made of; the disk is full.
    """
    began, offsets = time.perf_counter(), [0]
    with complete_folder(path) as temporary:
        files = _files(split, packed, offsets, progress)
        write_array(temporary / "train_files.npy", None, np.dtype(np.uint8), files)
        write_whole(temporary / "train_offsets.npy", np.array(offsets, dtype=np.int64))
        write_whole(temporary / "train_labels.npy", split.labels)
        info = _describe(split, packed, size=offsets[-1], began=began)
        info = replace(info, checksums=EncodedStore(path=temporary, info=info).compute_checksums())
        write_info(temporary, info)
    progress.say(f"{info.name}: {info.samples:,} JPEG files, {in_bytes(info.bytes)} on the disk")
    return EncodedStore(path=path, info=info)


def _describe(split: SourceSplit, packed: Store, *, size: int, began: float) -> EncodedInfo:
    height, width, _ = split.image_shape
    return EncodedInfo(
        format=FORMAT,
        name=packed.info.name,
        fingerprint=packed.info.fingerprint,
        samples=len(split.labels),
        bytes=size,
        height=height,
        width=width,
        source=packed.info.source,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - began, 1),
        versions={"fastiseat": __version__, "pillow": version("pillow")},
    )


def _files(
    split: SourceSplit, packed: Store, offsets: list[int], progress: Progress
) -> Iterator[npt.NDArray[np.uint8]]:
    """The content of all files, one an array; ``offsets`` gets their ends."""
    assert split.files is not None
    train, files = packed.open().train, split.files()
    if not np.array_equal(train.labels, split.labels):
        raise _changed(packed, packed.info.source)
    for block in split.blocks():
        first = len(offsets) - 1
        pixels = train.images[first : first + len(block)]
        for image, expected, file in zip(block, pixels, islice(files, len(block)), strict=True):
            _require_jpeg(file)
            if not np.array_equal(image, expected):
                raise _changed(packed, file.where)
            offsets.append(offsets[-1] + len(file.content))
            yield np.frombuffer(file.content, dtype=np.uint8)
        progress.count("JPEG files", len(offsets) - 1, len(split.labels))


def _changed(packed: Store, where: str) -> UserError:
    return UserError(f"{where}: is not what {packed.path} was prepared from; {AGAIN}")


def _require_jpeg(file: ImageFile) -> None:
    with Image.open(io.BytesIO(file.content)) as image:
        if image.format != "JPEG" or image.mode not in _MODES:
            raise UserError(
                f"{file.where}: {image.format} with pixels of mode {image.mode}; --format jpeg needs grey or colour "
                "JPEG files throughout: leave it out"
            )
