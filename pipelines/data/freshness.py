"""Whether a store holds what its source holds: ``source.json`` in it tells what that was when it was prepared."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter

from fastiseat.errors import UserError
from fastiseat.pipelines.data.changes import Changes, differences, reader, renewed, same_states, with_digests
from fastiseat.pipelines.data.listing import Listing, scan
from fastiseat.pipelines.data.locations import OWN
from fastiseat.pipelines.data.readers import read_source
from fastiseat.pipelines.protocol.base import fingerprint_of_blocks
from fastiseat.pipelines.protocol.progress import SILENT, Progress
from fastiseat.pipelines.protocol.releases import RELEASES
from fastiseat.pipelines.stores.store import AGAIN, Store
from fastiseat.safe import LEFT_BEHIND, OwnFolder, read_file, resolved
from fastiseat.safe.reading import LISTING

FILE = "source.json"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What ``source.json`` tells.

    Attributes:
        where: the source; relative to the folder that ``prepared`` lies in if it is below that, so that both may be
            moved or copied together.
        listing: of the source, with checksums, as it was before it was read.
    """

    where: str
    listing: Listing


State = Literal["same", "touched", "changed", "gone", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """How a source stands to what was prepared from it.

    Attributes:
        state: ``same``, by sizes and times; ``touched``, by content alone; ``changed``; ``gone``, all of it;
            ``unknown``, where no ``source.json`` tells.
        source: where it is now, or was.
        changes: what is seen of them where it has changed by its listing.
        record: what is true of it now, where it was touched.
    """

    state: State
    source: Path
    changes: Changes | None = None
    record: Record | None = None

    @property
    def usable(self) -> bool:
        """Whether nothing speaks against the prepared arrays: people delete archives once they are prepared."""
        return self.state in ("same", "touched", "gone")

    def __str__(self) -> str:
        match self.state:
            case "same" | "touched":
                return f"{self.source}, unchanged"
            case "gone":
                return f"{self.source}, which is gone"
            case "unknown":
                return f"{self.source}, whose files were not noted: the next use compares all images, once"
            case "changed":
                seen = f" ({self.changes})" if self.changes else ""
                return f"{self.source}, which has changed since{seen}: the next use prepares it anew"


def record_of(kind: str, source: Path, store: Path, progress: Progress) -> Record:
    """What is to be noted of ``source`` before it is read for ``store``; reads all of it, for the checksums."""
    source, root = source.absolute(), _root(store)
    # The user's own data is meant by its absolute place, wherever its arrays are.
    moves = source.is_relative_to(root) and kind not in OWN
    listing = scan(kind, source)
    digest = reader(kind, source, len(listing.files()), progress)
    where = source.relative_to(root) if moves else source
    return Record(where=str(where), listing=with_digests(listing, digest))


def examine(store: Store, *, thorough: bool = False, progress: Progress = SILENT) -> Freshness:
    """How the source of ``store`` stands to it.

    Names, sizes and times of its files are looked at, and the files read where these differ, or with ``thorough``
    all. What changes a file and keeps both its size and its time goes unnoticed without it.
    """
    kind, record = _kind(store), read_record(store.path)
    if record is None:
        source = Path(store.info.source)
        return Freshness(state="gone" if scan(kind, source).empty else "unknown", source=source)
    source = _root(store.path) / record.where
    now, then = scan(kind, source), record.listing
    if now.empty:
        return Freshness(state="gone", source=source)
    same = same_states(then, now)
    if same and not thorough:
        return Freshness(state="same", source=source)
    digest = reader(kind, source, len(now.files()), progress)
    if changes := differences(then, now, digest, thorough=thorough):
        return Freshness(state="changed", source=source, changes=changes)
    current = Record(where=record.where, listing=renewed(then, now))
    return Freshness(state="same" if same else "touched", source=source, record=current)


def settle(store: Store, progress: Progress) -> Freshness:
    """:func:`examine`, with what it finds noted: a touched source need not be read again, nor an unknown one."""
    found = examine(store, progress=progress)
    if found.state == "touched":
        assert found.record is not None
        note(store.path, found.record)
    return _compared(store, found.source, progress) if found.state == "unknown" else found


def _compared(store: Store, source: Path, progress: Progress) -> Freshness:
    """By pixels, labels and names of classes."""
    kind = _kind(store)
    progress.say(f"{store.path}: does not tell what {source} held; comparing all images, once")
    record = record_of(kind, source, store.path, progress)
    with read_source(kind, resolved(source), store.info.image_size) as content:
        splits = [
            (split.shape, np.dtype(np.uint8), split.blocks(), split.labels)
            for split in (content.train, content.test)
        ]
        found = fingerprint_of_blocks(splits, progress)
    if (found, content.class_names) != (store.info.fingerprint, store.info.class_names):
        return Freshness(state="changed", source=source)
    note(store.path, record)
    return Freshness(state="same", source=source)


def read_record(store: Path) -> Record | None:
    """``source.json`` of the store; None where there is none that can be read: then nothing is known."""
    try:
        return TypeAdapter(Record).validate_json(read_file(store / FILE, most=LISTING), strict=True)
    except (OSError, ValueError, RecursionError):
        return None


def encoded(record: Record) -> bytes:
    """The content of ``source.json``."""
    return (json.dumps({"where": record.where, "listing": {"folders": record.listing.folders}}) + "\n").encode()


def note(store: Path, record: Record) -> None:
    """Replace ``source.json``; where that can't be written, the next look takes as long as this one."""
    own = OwnFolder(store)
    with suppress(UserError):
        own.sweep(idle=LEFT_BEHIND)
        own.write(FILE, encoded(record))


def _kind(store: Store) -> str:
    kind = store.info.name.partition(":")[0]
    if kind not in (*RELEASES, *OWN):
        raise UserError(f"{store.path / 'info.json'}: damaged (no such data set as {store.info.name!r}); {AGAIN}")
    return kind


def _root(store: Path) -> Path:
    """The folder that holds ``prepared/``."""
    return store.absolute().parents[1]
