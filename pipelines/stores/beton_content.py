"""What a beton is made of: a training split as one long row of bytes, and where each sample begins in it."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.base import Split
from fastiseat.pipelines.protocol.progress import Progress
from fastiseat.pipelines.stores.encoded import EncodedSplit


def image_shape(train: Split | EncodedSplit) -> tuple[int, int, int]:
    """(H, W, C) of an image as it is read."""
    if isinstance(train, EncodedSplit):
        return (train.height, train.width, 3)
    height, width, channels = train.images.shape[1:]
    return (height, width, channels)


def sample_offsets(train: Split | EncodedSplit) -> npt.NDArray[np.int64]:
    """Where each sample begins in the row of bytes, and where the last one ends; int64 (n + 1,)."""
    if isinstance(train, EncodedSplit):
        return train.offsets
    return np.arange(len(train) + 1, dtype=np.int64) * int(np.prod(image_shape(train)))


def page_contents(
    train: Split | EncodedSplit, pages: list[tuple[int, int]], progress: Progress
) -> Iterator[npt.NDArray[np.uint8]]:
    """The content of each page, uint8."""
    for first, last in pages:
        if isinstance(train, EncodedSplit):
            yield train.data[train.offsets[first] : train.offsets[last]]
        else:
            yield np.ascontiguousarray(train.images[first:last]).reshape(-1)
        progress.count("training images written", last, len(train))


def require_readable(train: EncodedSplit, name: str, progress: Progress) -> None:
    """:class:`UserError` for a file of another size or other colours: there FFCV would leave in the batch what was
    in its memory before.
    """
    # MPO: a JPEG file that holds further pictures behind the first.
    kinds = itertools.product(("RGB", "L"), ("JPEG", "MPO"))
    readable = {f"{mode} {kind} of {train.width}×{train.height}" for mode, kind in kinds}
    for index in range(len(train)):
        try:
            with Image.open(io.BytesIO(train.file(index).tobytes())) as image:
                found = f"{image.mode} {image.format} of {image.width}×{image.height}"
        except OSError:
            found = "no image"
        if found not in readable:
            raise UserError(
                f"{name}: training image {index} is {found}; FFCV reads RGB or grey JPEG files of "
                f"{train.width}×{train.height}: use --format ffcv, which holds pixels"
            )
        progress.count("training images checked", index + 1, len(train))
