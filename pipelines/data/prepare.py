"""From the files that a data set comes in to the arrays that training maps into memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fastiseat.errors import UserError
from fastiseat.names.data import DATA
from fastiseat.pipelines.data.download import fetch
from fastiseat.pipelines.data.forms import discard_stale
from fastiseat.pipelines.data.freshness import FILE, Freshness, encoded, examine, record_of, settle
from fastiseat.pipelines.data.locations import Place, Wanted, in_cache, missing, places, roots, wanted
from fastiseat.pipelines.data.readers import read_source
from fastiseat.pipelines.protocol.progress import SILENT, Progress
from fastiseat.pipelines.protocol.releases import verdict
from fastiseat.pipelines.stores.store import Store
from fastiseat.pipelines.stores.writer import exclusive, first_writable, write
from fastiseat.safe import resolved

_LARGEST_SIDE = 4096


def find_store(name: str, *, data_dir: Path | None = None) -> Store | None:
    """The prepared arrays of ``name``, or None where there are none. Reads no more than their description: their
    source may have changed since.
    """
    found = _holding(places(wanted(name), data_dir=data_dir, source=None))
    return None if found is None else next(_stores(found))


def current_store(
    name: str,
    *,
    data_dir: Path | None = None,
    prepared: Path | None = None,
    expected: str | None = None,
    progress: Progress = SILENT,
) -> Store:
    """The prepared arrays of ``name``, made where there are none, and anew where their source has changed.

    Args:
        name: a release, ``imagefolder:DIR`` or ``npz:PATH``.
        data_dir: where to look first, and to write.
        prepared: a store that is taken if it is there and is of ``name``, whatever lies elsewhere.
        expected: the fingerprint that the caller needs: arrays that have it are never made anew.
        progress: is told what happens.

    Raises:
        UserError: as :func:`prepare`; or the source has changed, and the arrays are still the expected ones.
    """
    asked = wanted(name)
    candidates = places(asked, data_dir=_holder(data_dir, prepared), source=None)
    own = [] if prepared is None else [_place_of(asked, prepared)]
    found = _found([*own, *candidates], progress)
    if found is None:
        return prepare(name, data_dir=_holder(data_dir, prepared), progress=progress)
    if not found.freshness.usable and found.store.info.fingerprint == expected:
        raise _still_expected(found)
    return found.store if found.freshness.usable else _renew(asked, found, progress)


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
    """The prepared arrays of ``name``, made now unless they are there already and their source is what it was.

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
    found = None if force else _found(candidates, progress)
    if found is not None:
        _check_same(found.store, candidates[0].source if source else None, image_size)
        if not found.freshness.usable:
            return _renew(asked, found, progress)
        progress.say(f"{asked.name} is prepared already; --force makes it anew")
        return found.store
    if download:
        candidates = places(asked, data_dir=data_dir, source=_download(asked, roots(data_dir)[0], progress))
    for place in candidates:
        if place.source is not None and place.source.exists():
            return _make(asked, place, image_size=image_size, force=force, progress=progress)
    raise missing(asked, roots(data_dir))


class _Found(NamedTuple):
    place: Place
    store: Store
    freshness: Freshness


def _holding(candidates: Sequence[Place]) -> Place | None:
    """The first place that has a store; None where there is none, or unprepared files come before it."""
    for place in candidates:
        if next(_stores(place), None):
            return place
        if place.source is not None:
            return None
    return None


def _stores(place: Place) -> Iterator[Store]:
    """Those that are there, in the order of preference."""
    return (store for path in place.stores if (store := Store.at(path)))


def _found(candidates: Sequence[Place], progress: Progress) -> _Found | None:
    """A store that can be used, else the one that is to be made anew. Other folders' may lie behind it: a store that
    can't be written is made anew in the cache.
    """
    place = _holding(candidates)
    if place is None:
        return None
    first = None
    for store in _stores(place):
        found = _Found(place, store, settle(store, progress))
        if found.freshness.usable:
            return found
        first = first or found
    return first


def _renew(asked: Wanted, found: _Found, progress: Progress) -> Store:
    source, changes = found.freshness.source, found.freshness.changes
    seen = f" ({changes})" if changes else ""
    progress.say(f"{asked.name}: {source} has changed since it was prepared{seen}; preparing it anew")
    place = Place(source=source, stores=found.place.stores)
    try:
        return _make(asked, place, image_size=found.store.info.image_size, force=False, progress=progress)
    except UserError as error:
        raise UserError(
            f"{error} ({found.store.path} still holds what was prepared of {source} before it changed: to use that, "
            "move the source away altogether)"
        ) from error


def _still_expected(found: _Found) -> UserError:
    changes = f" ({found.freshness.changes})" if found.freshness.changes else ""
    return UserError(
        f"{found.freshness.source} has changed{changes} since the run's images, of the fingerprint "
        f"{found.store.info.fingerprint}, were prepared from it: bring it back, move it away to use what is still in "
        f"{found.store.path}, or take what it holds now (train: another --out; eval: --dataset)"
    )


def _holder(data_dir: Path | None, prepared: Path | None) -> Path | None:
    """``data_dir``, or without one the folder that the ``prepared`` store lies in, if that is still there."""
    if data_dir is not None or prepared is None:
        return data_dir
    return prepared.parents[1] if prepared.parents[1].is_dir() else None


def _place_of(asked: Wanted, prepared: Path) -> Place:
    store = Store.at(prepared)
    if store is None or store.info.name != asked.name:
        return Place(source=None, stores=())
    return Place(source=None, stores=(prepared, in_cache(asked, prepared)))


def _make(asked: Wanted, place: Place, *, image_size: int | None, force: bool, progress: Progress) -> Store:
    assert place.source is not None
    began = time.perf_counter()
    path = first_writable(place.stores)
    with exclusive(path, progress):
        # Another process may have made it while this one waited.
        if not force and (found := Store.at(path)) and examine(found, progress=progress).usable:
            return found
        record = record_of(asked.kind, place.source, path, progress)
        with read_source(asked.kind, resolved(place.source), image_size) as source:
            progress.say(f"{asked.name}, {verdict(source.official, source.remark)}")
            made = write(
                path,
                source,
                name=asked.name,
                image_size=image_size,
                began=began,
                progress=progress,
                beside={FILE: encoded(record)},
            )
    discard_stale(made, progress)
    return made


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
    if image_size is not None and not DATA[asked.kind].resizes:
        raise UserError(f"--image-size {image_size}: {asked.kind} is used at its own size; leave it out")
    if image_size is not None and not 1 <= image_size <= _LARGEST_SIDE:
        raise UserError(f"--image-size {image_size}: must lie in 1 … {_LARGEST_SIDE}")


def _check_same(found: Store, source: Path | None, image_size: int | None) -> None:
    if source is not None and str(resolved(source)) != found.info.source:
        raise UserError(
            f"{found.info.name} is prepared from {found.info.source}: add --force to prepare it from {source} instead"
        )
    if image_size not in (None, found.info.image_size):
        at = f"at size {found.info.image_size}" if found.info.image_size else "as it is"
        raise UserError(
            f"{found.info.name} is prepared {at}: add --force to prepare it at size {image_size} instead"
        )
