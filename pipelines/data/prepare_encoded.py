"""From the JPEG files that a data set comes in to the store that keeps them beside the prepared arrays."""

from __future__ import annotations

from pathlib import Path

from fastiseat.errors import UserError
from fastiseat.names.data import DATA
from fastiseat.pipelines.data.freshness import examine
from fastiseat.pipelines.data.locations import wanted
from fastiseat.pipelines.data.prepare import find_store, prepare
from fastiseat.pipelines.data.readers import read_source
from fastiseat.pipelines.protocol.progress import SILENT, Progress
from fastiseat.pipelines.stores.encoded_store import EncodedStore, write_encoded
from fastiseat.pipelines.stores.store import Store
from fastiseat.pipelines.stores.writer import exclusive, first_writable
from fastiseat.safe import resolved

WITH_JPEG_FILES = tuple(name for name, kind in DATA.items() if kind.has_jpeg)
"""The kinds of data sets whose images may be JPEG files."""


def find_encoded(name: str, *, data_dir: Path | None = None) -> EncodedStore | None:
    """The JPEG files of ``name``, or None where there are none of its prepared arrays beside them."""
    packed = find_store(name, data_dir=data_dir)
    return None if packed is None else _current(EncodedStore.beside(packed.path), packed)


def prepare_encoded(
    name: str,
    *,
    data_dir: Path | None = None,
    source: Path | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> EncodedStore:
    """The JPEG files of ``name``, gathered now unless they are already; the arrays are prepared first.

    The arguments are those of :func:`fastiseat.pipelines.data.prepare.prepare`; ``force`` makes both anew.

    Raises:
        UserError: as there, and where the training images aren't JPEG files, or aren't used at their own size.
    """
    _require_jpeg_files(name)
    packed = prepare(name, data_dir=data_dir, source=source, force=force, progress=progress)
    return encode(packed, force=force, progress=progress)


def encode(packed: Store, *, force: bool = False, progress: Progress = SILENT) -> EncodedStore:
    """The JPEG files that ``packed`` was prepared from, gathered now unless they are already, or with ``force``.

    Raises:
        UserError: the training images aren't JPEG files, or aren't used at their own size, or are gone.
    """
    name = packed.info.name
    _require_jpeg_files(name)
    if packed.info.image_size is not None:
        raise UserError(
            f"{name} is prepared at size {packed.info.image_size}, which its JPEG files don't have; leave out --format "
            "jpeg"
        )
    path = EncodedStore.beside(packed.path)
    if not force and (found := _current(path, packed)):
        progress.say(f"the JPEG files of {name} are prepared already; --force makes them anew")
        return found
    first_writable([path])
    with exclusive(path, progress):
        # Another process may have made it while this one waited.
        return (not force and _current(path, packed)) or _make(wanted(name).kind, path, packed, progress)


def _require_jpeg_files(name: str) -> None:
    if wanted(name).kind not in WITH_JPEG_FILES:
        raise UserError(f"{name} has no JPEG files: its images lie in arrays; leave out --format jpeg")


def _current(path: Path, packed: Store) -> EncodedStore | None:
    """The store in ``path`` if it belongs to ``packed``; another one is left over from earlier arrays."""
    found = EncodedStore.at(path)
    return found if found and found.info.fingerprint == packed.info.fingerprint else None


def _make(kind: str, path: Path, packed: Store, progress: Progress) -> EncodedStore:
    found = examine(packed, progress=progress)
    source = found.source
    if found.state == "gone":
        raise UserError(f"{source}: gone, but {packed.path} was prepared from it; prepare that again with --force")
    with read_source(kind, resolved(source), None) as content:
        return write_encoded(path, content.train, packed=packed, progress=progress)
