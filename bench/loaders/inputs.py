"""What loaders are timed on: packed images, the JPEG files of the same images, and a folder to write into."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from fastiseat.bench.inputs import SEED, images_of, training_split
from fastiseat.pipelines.data.prepare_encoded import WITH_JPEG_FILES, find_encoded
from fastiseat.pipelines.loaders.jpeg import decode_file
from fastiseat.pipelines.protocol.base import Split
from fastiseat.pipelines.stores.encoded import EncodedSplit

# So many are made; a larger set repeats them.
_DISTINCT_FILES = 1000
# A corner every so many pixels: files of about the size of photographs.
_SMOOTHNESS = 8


@dataclass(frozen=True, kw_only=True)
class Source:
    """The same images twice, and room for a third form."""

    split: Split
    files: EncodedSplit | None
    """None where the data set has no JPEG files, or they are not prepared."""
    folder: Path
    """Is gone afterwards."""


@contextmanager
def source(dataset: str, limit: int, data_dir: Path | None) -> Iterator[Source]:
    """The first ``limit`` training images of a data set, or as many random ones like them."""
    files = None
    if data_dir is None and dataset in WITH_JPEG_FILES:
        files = random_files(dataset, min(limit, images_of(dataset).num_images[0]))
        split = _decoded(files)
    else:
        split = training_split(dataset, limit, data_dir)
        store = find_encoded(dataset, data_dir=data_dir) if data_dir and dataset in WITH_JPEG_FILES else None
        files = None if store is None else _first(store.open(), len(split))
    with TemporaryDirectory(prefix="fastiseat-bench-") as folder:
        yield Source(split=split, files=files, folder=Path(folder))


def random_files(dataset: str, number: int) -> EncodedSplit:
    """JPEG files of smooth random images, colour subsampled as cameras do."""
    images = images_of(dataset)
    random = np.random.Generator(np.random.Philox(SEED))
    corners = max(2, images.side // _SMOOTHNESS)
    distinct = [
        _jpeg(random.integers(256, size=(corners, corners, 3), dtype=np.uint8), images.side)
        for _ in range(min(number, _DISTINCT_FILES))
    ]
    files = [distinct[i % len(distinct)] for i in range(number)]
    return EncodedSplit(
        data=np.frombuffer(b"".join(files), dtype=np.uint8),
        offsets=np.cumsum([0, *map(len, files)]),
        labels=random.integers(images.num_classes, size=number),
        height=images.side,
        width=images.side,
    )


def _jpeg(corners: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], side: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(corners).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _decoded(files: EncodedSplit) -> Split:
    distinct = np.stack([decode_file(files, row) for row in range(min(len(files), _DISTINCT_FILES))])
    return Split(images=distinct[np.arange(len(files)) % len(distinct)], labels=files.labels)


def _first(files: EncodedSplit, number: int) -> EncodedSplit:
    return EncodedSplit(
        data=files.data[: files.offsets[number]],
        offsets=files.offsets[: number + 1],
        labels=files.labels[:number],
        height=files.height,
        width=files.width,
    )
