"""Own images in class folders: ``train/<class>/…`` and ``test/<class>/…``, or ``val`` instead of ``test``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fastiseat.errors import UserError
from fastiseat.pipelines.archives import Files, Tree, is_image
from fastiseat.pipelines.formats.images import decoded, image_shape, undecoded
from fastiseat.pipelines.source import Source, SourceSplit

LAYOUT = "train/<class>/<images> and test/<class>/<images> (or val instead of test)"


@contextmanager
def read(path: Path, *, side: int | None = None) -> Iterator[Source]:
    """The folder's images as RGB; labels are the places of the sorted class names.

    The test split is ``test`` where that holds class folders, else ``val``. Images may lie deeper in a class's
    folder; what has no image's suffix is passed over. ``side`` is that of :func:`.images.decode`.
    """
    files = Tree(path)
    classes = files.folders("train")
    if not classes:
        raise UserError(f"{path}: holds no class folders in train; the layout is {LAYOUT}")
    test = next((name for name in ("test", "val") if files.folders(name)), None)
    if test is None:
        raise UserError(f"{path}: holds no class folders in test or val; the layout is {LAYOUT}")
    if different := sorted(set(classes) ^ set(files.folders(test))):
        has, lacks = ("train", test) if different[0] in classes else (test, "train")
        raise UserError(
            f"{path}: class {different[0]!r} is in {has}, but not in {lacks}; both need the same classes"
        )
    yield Source(
        where=str(path),
        class_names=tuple(classes),
        train=_split(files, "train", classes, side),
        test=_split(files, test, classes, side),
        official=None,
        remark=f"own images, tested on {test}",
    )


def _split(files: Files, split: str, classes: Sequence[str], side: int | None) -> SourceSplit:
    names, labels = [], []
    for label, name in enumerate(classes):
        images = [file for file in files.below(f"{split}/{name}") if is_image(file)]
        if not images:
            raise UserError(f"{files.where(f'{split}/{name}')}: holds no images; add some, or remove the folder")
        names += images
        labels += [label] * len(images)
    return SourceSplit(
        labels=np.array(labels, dtype=np.int64),
        image_shape=image_shape(files, names[0], side=side),
        blocks=decoded(files, names, side=side),
        files=undecoded(files, names) if side is None else None,
    )
