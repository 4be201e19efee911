"""Arrays that numpy saved: ``train.npz`` and ``test.npz`` in a folder, or one file with both splits."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import numpy as np

from fastiseat.errors import UserError
from fastiseat.pipelines.data.archives import open_zip
from fastiseat.pipelines.data.formats.saved_arrays import SavedArray, damage_told, find_array
from fastiseat.pipelines.protocol.source import Source, SourceSplit, as_labels, block_size

# What the arrays of a split may be called: in a file of their own, and after "train_" or "test_" in a common one.
_IMAGES, _LABELS = ("image", "images"), ("label", "labels")
_MOST_IMAGES = 10**8
LAYOUT = (
    "a folder with train.npz and test.npz, each with uint8 'image' (n, H, W, C) and integer 'label' (n,), or one file "
    "with train_images, train_labels, test_images and test_labels, or x_train, y_train, x_test and y_test"
)


def read_source(kind: str, path: Path, image_size: int | None) -> AbstractContextManager[Source]:
    """:func:`read`, as all readers are called."""
    return read(path)


@contextmanager
def read(path: Path) -> Iterator[Source]:
    """Images uint8 (n, H, W, C), or (n, H, W) for grey ones, and labels from 0, (n,) or (n, 1); classes by number.

    Pixels are read block by block and never lie in memory together.
    """
    with ExitStack() as stack:
        train, test = (_read_split(stack, path, split) for split in ("train", "test"))
        num_classes = int(max(train.labels.max(initial=0), test.labels.max(initial=0))) + 1
        if num_classes > len(train.labels):
            raise UserError(
                f"{path}: label {num_classes - 1}, but {len(train.labels)} training images; labels count from 0, and "
                "every class needs a training image"
            )
        yield Source(
            where=str(path),
            class_names=tuple(map(str, range(num_classes))),
            train=train,
            test=test,
            official=None,
            remark="own arrays",
        )


def _read_split(stack: ExitStack, path: Path, split: str) -> SourceSplit:
    names: tuple[tuple[str, ...], ...] = (_IMAGES, _LABELS)
    if path.is_dir():
        file = path / f"{split}.npz"
    else:
        file = path
        names = (
            (*(f"{split}_{name}" for name in _IMAGES), f"x_{split}"),
            (*(f"{split}_{name}" for name in _LABELS), f"y_{split}"),
        )
    if not file.exists():
        raise UserError(f"{file}: no such file; the layout is {LAYOUT}")
    with damage_told(str(file)):
        archive = stack.enter_context(open_zip(file))
    images, labels = (_find(archive, candidates, file) for candidates in names)
    return _as_split(images, labels)


def _find(archive: zipfile.ZipFile, candidates: Sequence[str], path: Path) -> SavedArray:
    found = find_array(archive, candidates, path)
    if found is None:
        raise UserError(f"{path}: holds no array {' or '.join(candidates)}; the layout is {LAYOUT}")
    return found


def _as_split(images: SavedArray, labels: SavedArray) -> SourceSplit:
    shape = images.shape if len(images.shape) == 4 else (*images.shape, 1)
    if images.dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape:
        raise UserError(
            f"{images.where}: {images.dtype} {images.shape}; uint8 (n, height, width, 3) is needed, or (n, height, "
            "width) for grey images"
        )
    count = shape[0]
    if labels.shape not in ((count,), (count, 1)) or labels.dtype.kind not in "iu" or count > _MOST_IMAGES:
        raise UserError(f"{labels.where}: {labels.dtype} {labels.shape}; whole numbers ({count},) are needed")
    (values,) = labels.blocks(count)
    step = block_size(shape[1:])
    return SourceSplit(
        labels=as_labels(values.reshape(-1), labels.where, count=count),
        image_shape=(shape[1], shape[2], shape[3]),
        blocks=lambda: (block.reshape(-1, *shape[1:]) for block in images.blocks(step)),
    )
