"""From the files that a data set comes in to the arrays that training maps into memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from fastiseat.errors import UserError
from fastiseat.pipelines.download import fetch
from fastiseat.pipelines.places import Place, Wanted, missing, places, roots, wanted
from fastiseat.pipelines.progress import SILENT, Progress
from fastiseat.pipelines.releases import verdict
from fastiseat.pipelines.source import Source
from fastiseat.pipelines.store import Store
from fastiseat.pipelines.writer import exclusive, first_writable, write

_LARGEST_SIDE = 4096


def find_store(name: str, *, data_dir: Path | None = None) -> Store | None:
    """The prepared arrays of ``name``, or None where there are none. Reads no more than their description."""
    return _prepared(places(wanted(name), data_dir=data_dir, source=None))


def prepare(
    name: str,
    *,
    data_dir: Path | None = None,
    source: Path | None = None,
    download: bool = False,
    image_size: int | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> Store:
    """The prepared arrays of ``name``, made now unless they are there already.

    Args:
        name: a release, ``imagefolder:DIR`` or ``npz:PATH``.
        data_dir: where to look first, and to write.
        source: the release's archive or folder, where it lies elsewhere.
        download: fetch the release from its home.
        image_size: resize an image folder's images to squares of this side.
        force: make them anew.
        progress: is told what happens.

    Raises:
        UserError: the files are not there, damaged or not what they should be, or the arrays can't be written.
    """
    asked = wanted(name)
    _check(asked, source=source, download=download, image_size=image_size)
    if download and data_dir is not None:
        data_dir.mkdir(parents=True, exist_ok=True)
    candidates = places(asked, data_dir=data_dir, source=source)
    found = None if force else _prepared(candidates)
    if found is not None:
        _check_same(found, candidates[0].source if source else None, image_size)
        progress.say(f"{asked.name} is prepared already; --force makes it anew")
        return found
    if download:
        candidates = places(asked, data_dir=data_dir, source=_download(asked, roots(data_dir)[0], progress))
    for place in candidates:
        if place.source is not None and place.source.exists():
            return _make(asked, place, image_size=image_size, force=force, progress=progress)
    raise missing(asked, roots(data_dir))


def _prepared(candidates: Sequence[Place]) -> Store | None:
    """The first place's store; None where there is none, or unprepared files come before it."""
    for place in candidates:
        for path in place.stores:
            if store := Store.at(path):
                return store
        if place.source is not None:
            return None
    return None


def _make(asked: Wanted, place: Place, *, image_size: int | None, force: bool, progress: Progress) -> Store:
    assert place.source is not None
    began = time.perf_counter()
    path = first_writable(place.stores)
    with exclusive(path, progress):
        # Another process may have made it while this one waited.
        if not force and (found := Store.at(path)):
            return found
        with read_source(asked.kind, place.source.resolve(), image_size) as source:
            progress.say(f"{asked.name}, {verdict(source.official, source.remark)}")
            return write(path, source, name=asked.name, image_size=image_size, began=began, progress=progress)


def read_source(kind: str, path: Path, image_size: int | None) -> AbstractContextManager[Source]:
    """The files of ``kind`` at ``path``. Their reader is imported only now: some bring large libraries."""
    match kind:
        case "cifar10" | "cifar100":
            from fastiseat.pipelines.formats import cifar

            return cifar.read(kind, path)
        case "svhn":
            from fastiseat.pipelines.formats import svhn

            return svhn.read(path)
        case "tinyimagenet":
            from fastiseat.pipelines.formats import tiny_imagenet

            return tiny_imagenet.read(path)
        case "npz":
            from fastiseat.pipelines.formats import npz

            return npz.read(path)
    assert kind == "imagefolder"
    from fastiseat.pipelines.formats import image_folder

    return image_folder.read(path, side=image_size)


def _download(asked: Wanted, folder: Path, progress: Progress) -> Path:
    assert asked.release is not None
    for file in asked.release.files:
        fetch(file, folder, progress)
    return folder


def _check(asked: Wanted, *, source: Path | None, download: bool, image_size: int | None) -> None:
    if asked.release is None and (source is not None or download):
        raise UserError(f"{asked.name}: names its files itself; leave out --source and --download")
    if source is not None and download:
        raise UserError("--source and --download: the files come from one of them; leave out the other")
    if image_size is not None and asked.kind != "imagefolder":
        raise UserError(f"--image-size {image_size}: {asked.kind} is used at its own size; leave it out")
    if image_size is not None and not 1 <= image_size <= _LARGEST_SIDE:
        raise UserError(f"--image-size {image_size}: must lie in 1 … {_LARGEST_SIDE}")


def _check_same(found: Store, source: Path | None, image_size: int | None) -> None:
    if source is not None and str(source.resolve()) != found.info.source:
        raise UserError(
            f"{found.info.name} is prepared from {found.info.source}: add --force to prepare it from {source} instead"
        )
    if image_size not in (None, found.info.image_size):
        at = f"at size {found.info.image_size}" if found.info.image_size else "as it is"
        raise UserError(
            f"{found.info.name} is prepared {at}: add --force to prepare it at size {image_size} instead"
        )
