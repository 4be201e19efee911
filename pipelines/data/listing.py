"""The files that a data set is read from: names, sizes, times of change, and a checksum each. Imports no numpy."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fastiseat.errors import UserError
from fastiseat.names.data import DATA
from fastiseat.pipelines.data.archives import DEEPEST_FOLDER, is_image, is_visible
from fastiseat.pipelines.protocol.releases import RELEASES


class FileState(NamedTuple):
    """Bytes, time of change in ns, and the beginning of the SHA-256; empty where nobody has asked for it."""

    size: int
    mtime_ns: int
    digest: str = ""


@dataclass(frozen=True)
class Listing:
    """By folder, relative to the data set's own and with slashes, the files directly in it; or the one archive."""

    folders: Mapping[str, Mapping[str, FileState]]

    @property
    def empty(self) -> bool:
        """Whether there is no file at all, only folders at most."""
        return not any(self.folders.values())

    def files(self) -> dict[str, FileState]:
        """All files by their relative names."""
        return {
            f"{folder}/{name}" if folder else name: state
            for folder, files in self.folders.items()
            for name, state in files.items()
        }

    def empty_folders(self, *, beyond: Listing) -> set[str]:
        """Those that stand for a class, hold nothing, and are not in ``beyond`` at all; with a slash at the end."""
        return {f"{folder}/" for folder in self.folders.keys() - beyond.folders.keys() if not self.folders[folder]}


def scan(kind: str, root: Path) -> Listing:
    """The files that the reader of ``kind`` reads at ``root``, as they are now, without checksums.

    None is opened. An empty listing where there are none; :class:`UserError` for a folder that can't be read.
    """
    if root.is_file():
        return Listing({"": {root.name: _state(root.stat())}})
    folders: dict[str, dict[str, FileState]] = {"": {}}
    for part in _parts(kind, root):
        if (root / part).is_dir():
            _walk(str(root / part), part, folders)
        elif (root / part).is_file():
            folders[""][part] = _state((root / part).stat())
    return Listing(folders)


def _parts(kind: str, root: Path) -> tuple[str, ...]:
    """What lies directly in a data set's folder and is read: files, or folders of images."""
    if parts := DATA[kind].parts:
        return tuple(_present(part.split("|"), root) for part in parts)
    release = RELEASES[kind]
    return tuple(release.members) if release.folder else tuple(file.name for file in release.files)


def _present(names: Sequence[str], root: Path) -> str:
    """The first of several folders that holds class folders, or the first of all where none does."""
    return next((name for name in names if names[1:] and class_folders(root / name)), names[0])


def largest(kind: str, root: Path) -> int | None:
    """Bytes that a file of the data set at ``root`` has at most; None where its own header tells."""
    return DATA[kind].most if root.is_dir() else DATA[kind].most_alone


def tested_on(root: Path) -> str | None:
    """The test split of an image folder: ``test`` where that holds class folders, else ``val`` where that does."""
    return next((split for split in ("test", "val") if class_folders(root / split)), None)


def class_folders(folder: Path) -> list[str]:
    """The names of the visible folders directly in ``folder``, sorted; none where it is no folder."""
    return sorted(entry.name for entry in _entries(str(folder)) if entry.is_dir()) if folder.is_dir() else []


def _walk(path: str, inside: str, folders: dict[str, dict[str, FileState]]) -> None:
    """Add what lies in and below ``path``, whose relative name is ``inside``; links are followed."""
    depth = inside.count("/")
    if depth > DEEPEST_FOLDER:
        raise UserError(f"{path}: folders deeper than {DEEPEST_FOLDER} levels; do links go in a circle?")
    files, deeper = {}, []
    for entry in _entries(path):
        if entry.is_dir():
            deeper.append(entry)
        elif _is_read(f"{inside}/{entry.name}") and entry.is_file():
            files[entry.name] = _state(entry.stat())
    if files or depth == 1:  # an empty folder counts where it stands for a class
        folders[inside] = files
    for entry in deeper:
        _walk(entry.path, f"{inside}/{entry.name}", folders)


def _entries(path: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            yield from (entry for entry in entries if is_visible(entry.name))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; check its permissions") from error


def _is_read(name: str) -> bool:
    return is_image(name) or name == "val/val_annotations.txt"


def _state(found: os.stat_result) -> FileState:
    return FileState(found.st_size, found.st_mtime_ns)
