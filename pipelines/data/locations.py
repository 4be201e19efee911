"""Which data set a name means, and where its files and its prepared arrays lie. Imports neither torch nor numpy."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastiseat.errors import UserError, unknown
from fastiseat.names.data import DATA, own_kinds, written
from fastiseat.pipelines.protocol.releases import RELEASES, Release
from fastiseat.safe import expanded, resolved

BUNDLED = {name: kind.package for name, kind in DATA.items() if kind.package}
"""Data sets that come with an installed package, and need neither files nor preparing."""

OWN = {kind: DATA[kind].path for kind in own_kinds()}
"""Kinds of the user's own data, named KIND:PATH."""

ENVIRONMENT = "FASTISEAT_DATA"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A data set that is read from files: a release, or own data at a path."""

    kind: str
    release: Release | None = None
    path: Path | None = None

    @property
    def name(self) -> str:
        """The name, which means the same data in every working directory."""
        return self.kind if self.path is None else f"{self.kind}:{self.path}"

    @property
    def key(self) -> str:
        """Name of the folder that holds the prepared arrays."""
        if self.path is None:
            return self.kind
        return f"{self.kind}-{re.sub(r'[^A-Za-z0-9._-]', '_', self.path.stem)}-{_short_hash(self.path)}"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a data set may be: its files, if there are any, and its prepared arrays, in the order of preference."""

    source: Path | None
    stores: tuple[Path, ...]


def wanted(name: str) -> Wanted:
    """What ``name`` means; :class:`UserError` for an unknown one."""
    kind, _, path = name.partition(":")
    if kind in OWN:
        if not path:
            raise UserError(f"data set {name!r}: say where it is: {kind}:{OWN[kind]}")
        return Wanted(kind=kind, path=resolved(path))
    if name in BUNDLED:
        raise UserError(f"data set {name} comes with {BUNDLED[name]} and is used from there: it is never prepared")
    if name not in RELEASES:
        raise unknown("data set", name, map(written, DATA))
    return Wanted(kind=name, release=RELEASES[name])


def is_place(name: str) -> bool:
    """Whether ``name`` is that of own data, which lies at a path, and not of a release."""
    kind, colon, _ = name.partition(":")
    return bool(colon) and kind in OWN


def cache() -> Path:
    """The folder for data where no other is named."""
    return expanded("~/.cache/fastiseat")


def roots(data_dir: Path | None) -> list[Path]:
    """The folders that data is looked for in: ``data_dir``, ``$FASTISEAT_DATA``, ``~/.cache/fastiseat``."""
    if data_dir is not None and not data_dir.is_dir():
        raise UserError(
            f"--data-dir {data_dir}: no such folder; give the one that holds the archive or its content"
        )
    named = os.environ.get(ENVIRONMENT)
    return [*([data_dir] if data_dir else []), *([expanded(named)] if named else []), cache()]


def places(wanted: Wanted, *, data_dir: Path | None, source: Path | None) -> list[Place]:
    """Where ``wanted`` may be, in the order that it is looked for in.

    Arrays are prepared beside the files, in ``prepared/<key>``; for files in a folder that can't be written, in the
    cache. With ``source`` the files are there, and the arrays in the first of the :func:`roots`.
    """
    folders = roots(data_dir)
    stores = [root / "prepared" / wanted.key for root in folders]
    if wanted.release is None:
        return [Place(source=wanted.path, stores=tuple(stores))]
    if source is not None:
        return [Place(source=_named_source(wanted.release, source), stores=(stores[0],))]
    found = []
    for root, store in zip(folders, stores, strict=True):
        files = wanted.release.locate(root)
        elsewhere = [] if files is None else [in_cache(wanted, files)]
        found.append(Place(source=files, stores=(store, *elsewhere)))
    return found


def in_cache(wanted: Wanted, elsewhere: Path) -> Path:
    """Where the arrays of ``wanted`` lie that can't be written where ``elsewhere`` is."""
    return cache() / "prepared" / f"{wanted.key}-{_short_hash(resolved(elsewhere))}"


def missing(wanted: Wanted, folders: Sequence[Path]) -> UserError:
    """The error for a data set whose files are in none of ``folders``."""
    if wanted.release is None:
        return UserError(f"{wanted.path}: no such file or folder; give what {wanted.kind}:{OWN[wanted.kind]} is")
    looked = " or ".join(map(str, folders))
    near = next((found for folder in folders if (found := wanted.release.near(folder))), None)
    if near is not None:
        return UserError(
            f"{wanted.kind} is not in {looked}, but in {near}: give --data-dir {shlex.quote(str(near))}"
        )
    return UserError(
        f"{wanted.kind} is not in {looked}: put {wanted.release.layout} there, name the folder that holds it with "
        f"--data-dir or {ENVIRONMENT}, or run: fastiseat data prepare {wanted.kind} --download"
    )


def _named_source(release: Release, source: Path) -> Path:
    if not source.exists():
        raise UserError(f"--source {source}: no such file or folder")
    files = release.locate(source)
    if files is None:
        raise UserError(f"--source {source}: {release.name} is not there; give {release.layout}, or what holds it")
    return files


def _short_hash(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
