"""Files in a folder or an archive, by name. Archives are read in memory: nothing in them is ever unpacked."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

from fastiseat.errors import UserError
from fastiseat.safe import open_file, read_file
from fastiseat.safe.reading import ARRAYS, BATCH, IMAGE

# Well above the largest file of a release, and small enough to hold in memory.
LARGEST_FILE = 64 * 2**20
LARGEST_TAR = BATCH
DEEPEST_FOLDER = 16
SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif")


def is_image(name: str) -> bool:
    """Whether the name ends like an image's."""
    return name.lower().endswith(SUFFIXES)


def is_visible(name: str) -> bool:
    """No file of a desktop or a file system: ``.DS_Store``, ``._image.JPEG``, ``__MACOSX``."""
    return not name.startswith(".") and name != "__MACOSX"


class Files(Protocol):
    """Files below one folder. Names are relative to it, with slashes; hidden files do not exist."""

    def below(self, folder: str) -> list[str]:
        """All files below ``folder``, at any depth, sorted."""

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in ``folder``, sorted."""

    def has(self, name: str) -> bool:
        """Whether there is a file ``name``."""

    def where(self, name: str) -> str:
        """The file's path, for messages."""

    def read(self, name: str) -> bytes:
        """The file's content; :class:`UserError` where it can't be read, or is not there."""


class Tree:
    """A folder on the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def below(self, folder: str) -> list[str]:
        """See :class:`Files`. Links are followed, so that a subset may be made of them."""
        if not (self.root / folder).is_dir():
            return []
        found = []
        for parent, folders, files in os.walk(self.root / folder, followlinks=True, onerror=_raise):
            folders[:] = [name for name in folders if is_visible(name)]
            inside = Path(parent).relative_to(self.root)
            if len(inside.parts) > DEEPEST_FOLDER:
                raise UserError(f"{parent}: folders deeper than {DEEPEST_FOLDER} levels; do links go in a circle?")
            found += [f"{inside.as_posix()}/{name}" for name in files if is_visible(name)]
        return sorted(found)

    def folders(self, folder: str) -> list[str]:
        """See :class:`Files`."""
        place = self.root / folder
        if not place.is_dir():
            return []
        return sorted(entry.name for entry in place.iterdir() if entry.is_dir() and is_visible(entry.name))

    def has(self, name: str) -> bool:
        """See :class:`Files`."""
        return (self.root / name).is_file()

    def where(self, name: str) -> str:
        """See :class:`Files`."""
        return str(self.root / name)

    def read(self, name: str) -> bytes:
        """See :class:`Files`."""
        return read_bytes(self.root / name, most=IMAGE)


def read_bytes(path: Path, *, most: int) -> bytes:
    """The content of a file; :class:`UserError` where it can't be read, or has more than ``most`` bytes."""
    try:
        return read_file(path, most=most)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; the data set needs this file") from error


def _raise(error: OSError) -> None:
    raise UserError(f"{error.filename}: {error.strerror}; check its permissions") from error


class Zipped:
    """A zip archive, as the one folder in it if that is all it has. Threads may read at the same time."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self._archive = path, archive
        entries: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            _check_member(info.filename, path, is_link=stat.S_ISLNK(info.external_attr >> 16))
            name = PurePosixPath(info.filename)
            if str(name) in entries:
                raise UserError(f"{path}: holds {info.filename!r} twice; fetch the official file")
            if name.parts and all(map(is_visible, name.parts)):
                entries[str(name)] = info
        tops = {PurePosixPath(name).parts[0] for name in entries}
        self._prefix = f"{tops.pop()}/" if len(tops) == 1 else ""
        self._entries = {name.removeprefix(self._prefix): info for name, info in entries.items()}

    def below(self, folder: str) -> list[str]:
        """See :class:`Files`."""
        return sorted(
            name for name, info in self._entries.items() if name.startswith(f"{folder}/") and not info.is_dir()
        )

    def folders(self, folder: str) -> list[str]:
        """See :class:`Files`."""
        depth = len(PurePosixPath(folder).parts)
        inside = [
            (PurePosixPath(name).parts, info.is_dir())
            for name, info in self._entries.items()
            if name.startswith(f"{folder}/")
        ]
        return sorted({parts[depth] for parts, is_dir in inside if len(parts) > depth + (not is_dir)})

    def has(self, name: str) -> bool:
        """See :class:`Files`."""
        return name in self._entries

    def where(self, name: str) -> str:
        """See :class:`Files`."""
        return f"{self.path}: {self._prefix}{name}"

    def read(self, name: str) -> bytes:
        """See :class:`Files`."""
        if name not in self._entries:
            raise UserError(f"{self.where(name)}: not there; the data set needs this file")
        info = self._entries[name]
        if info.file_size > LARGEST_FILE:
            raise UserError(
                f"{self.where(name)}: declares {info.file_size:,} bytes, more than any image has "
                f"({LARGEST_FILE:,}); fetch the official file"
            )
        try:
            with self._archive.open(info) as file:
                # Asking for the declared size bounds what is unpacked, and reaches the checksum.
                return file.read(info.file_size)
        except Exception as error:  # as many kinds as there are compressions, and all that damage leads to
            raise UserError(f"{self.where(name)}: cannot be read ({error}); fetch the archive again") from error


@contextmanager
def open_files(path: Path) -> Iterator[Files]:
    """The files of a folder or of a zip archive."""
    if path.is_dir():
        yield Tree(path)
        return
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(open_zip(path, most=ARRAYS))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}; check its permissions") from error
        except Exception as error:  # damaged bytes make the reader fail in too many ways to list
            raise UserError(f"{path}: truncated, or no zip archive ({error}); fetch it again") from error
        yield Zipped(path, archive)


@contextmanager
def open_zip(path: Path, *, most: int | None = None) -> Iterator[zipfile.ZipFile]:
    """A zip archive; raises as :func:`fastiseat.safe.open_file` and ``zipfile`` do."""
    with open_file(path, most=most) as file, zipfile.ZipFile(file) as archive:
        yield archive


def read_tar(path: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """The content of those files of a ``.tar.gz`` that are called ``wanted``, whatever folder they lie in."""
    names = set(wanted)
    try:
        with open_file(path, most=LARGEST_TAR) as packed, gzip.open(packed) as file:
            content = file.read(LARGEST_TAR + 1)
        if len(content) > LARGEST_TAR:
            raise UserError(f"{path}: unpacks to over {LARGEST_TAR:,} bytes; fetch the official file")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            return _members(path, archive, names)
    except UserError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise UserError(f"{path}: {error.strerror}; check its permissions") from error
        raise _no_tar(path, error) from error
    except Exception as error:  # damaged bytes make the reader fail in too many ways to list
        raise _no_tar(path, error) from error


def _no_tar(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: truncated, or no tar.gz archive ({error}); fetch it again")


def _members(path: Path, archive: tarfile.TarFile, names: Set[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for member in archive:
        plain = (member.isfile() and not member.issparse()) or member.isdir()
        _check_member(member.name, path, is_link=not plain)
        name = PurePosixPath(member.name).name
        file = archive.extractfile(member) if member.isfile() and name in names else None
        if file is None:
            continue
        if name in found:
            raise UserError(f"{path}: holds {name!r} twice; fetch the official file")
        found[name] = file.read()
    return found


def _check_member(name: str, path: Path, *, is_link: bool) -> None:
    """Refuse what no release has and an attack may: a name that leads out of the archive, a link, a device."""
    if name.startswith("/") or ".." in PurePosixPath(name).parts or "\\" in name:
        raise UserError(f"{path}: holds the unsafe name {name!r}, so nothing was read; fetch the official file")
    if is_link:
        raise UserError(f"{path}: holds the link or device {name!r}, so nothing was read; fetch the official file")
