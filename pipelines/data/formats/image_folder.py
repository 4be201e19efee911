"""Own images in class folders: ``train/<class>/…`` and ``test/<class>/…``, or ``val`` instead of ``test``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from fastiseat.errors import UserError
from fastiseat.pipelines.data.archives import Files, Tree, is_image, is_visible
from fastiseat.pipelines.data.formats.images import decoded, image_shape, undecoded
from fastiseat.pipelines.data.listing import class_folders, tested_on
from fastiseat.pipelines.protocol.source import Source, SourceSplit

LAYOUT = "train/<class>/<images> and test/<class>/<images> (or val instead of test)"
_SHOWN = 5


def read_source(kind: str, path: Path, image_size: int | None) -> AbstractContextManager[Source]:
    """:func:`read`, as all readers are called."""
    return read(path, side=image_size)


@contextmanager
def read(path: Path, *, side: int | None = None) -> Iterator[Source]:
    """The folder's images as RGB; labels are the places of the sorted class names.

    The test split is ``test`` where that holds class folders, else ``val``. Images may lie deeper in a class's
    folder; what has no image's suffix is passed over. ``side`` is that of :func:`.images.decode`.

    Raises:
        UserError: no class folders, a level of folders too many, images beside class folders, other classes in one
            split than in the other, a class without images, a single class.
    """
    classes, test = _classes(path)
    files = Tree(path)
    yield Source(
        where=str(path),
        class_names=tuple(classes),
        train=_split(files, "train", classes, side),
        test=_split(files, test, classes, side),
        official=None,
        remark=f"own images, tested on {test}",
    )


def _classes(path: Path) -> tuple[list[str], str]:
    """The names of the classes, and the split that is tested on."""
    classes, test = class_folders(path / "train"), tested_on(path)
    for found, split in ((classes, "train"), (test, "test or val")):
        if not found:
            raise UserError(f"{path}: holds no class folders in {split}; the layout is {LAYOUT}{_elsewhere(path)}")
    assert test is not None
    for split in ("train", test):
        _require_one_level(path / split)
    others = class_folders(path / test)
    if different := sorted(set(classes) ^ set(others)):
        has, lacks = ("train", test) if different[0] in classes else (test, "train")
        raise UserError(
            f"{path}: class {different[0]!r} is in {has}, but not in {lacks}; both need the same classes: train holds "
            f"{_named(classes)}, {test} holds {_named(others)}"
        )
    return classes, test


def _require_one_level(split: Path) -> None:
    """:class:`UserError` where ``split`` holds images, or all its classes in one folder more."""
    if loose := _images_in(split):
        raise UserError(f"{split / loose[0]}: an image beside class folders; move it into one of them, or away")
    folders = class_folders(split)
    below = class_folders(split / folders[0])
    if len(folders) == 1 and below and not _images_in(split / folders[0]):
        raise UserError(
            f"{split}: holds one folder, {folders[0]!r}, and that holds {_named(below)}: a level too many; if these "
            f"are the classes, move them up into {split}"
        )


def _elsewhere(path: Path) -> str:
    """Where the layout is instead: one folder up or down; or what is here."""
    if not path.is_dir():
        return ""
    near = (path.parent, *(path / name for name in class_folders(path)))
    right = next((folder for folder in near if class_folders(folder / "train") and tested_on(folder)), None)
    if right is not None:
        return f"; imagefolder:{right} has it"
    here = class_folders(path)
    return f"; it holds the folders {_named(here)}" if here else ""


def _images_in(folder: Path) -> list[str]:
    """The names of the images directly in it, sorted."""
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if is_visible(entry.name) and is_image(entry.name) and entry.is_file()
    )


def _named(folders: Sequence[str]) -> str:
    return ", ".join(folders[:_SHOWN]) + (f", … ({len(folders)})" if len(folders) > _SHOWN else "")


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
