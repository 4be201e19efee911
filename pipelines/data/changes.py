"""How the files of a data set differ from what they were: size and time tell as a rule, content where these differ."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zipfile import is_zipfile

from fastiseat.errors import UserError
from fastiseat.names.data import DATA
from fastiseat.pipelines.data.listing import Listing, largest
from fastiseat.pipelines.protocol.progress import Progress
from fastiseat.safe import open_file

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Changes:
    """How one listing differs from an earlier one, by relative names; an empty folder's ends with a slash.

    ``complete`` is whether nothing else may have been altered.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    altered: tuple[str, ...]
    complete: bool

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.altered)

    def __str__(self) -> str:
        kinds = {"added": self.added, "removed": self.removed, "altered": self.altered}
        counts = ", ".join(f"{len(names):,} {kind}" for kind, names in kinds.items() if names)
        names = [name for each in kinds.values() for name in each]
        least = "" if self.complete else "at least "
        return f"{least}{counts}: {', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}"


Digest = Callable[[str], str]
"""From a file's relative name to the beginning of its SHA-256."""


def reader(kind: str, root: Path, total: int, progress: Progress) -> Digest:
    """What reads the files below ``root``, or ``root`` itself, for their checksums; there are ``total`` to count.

    A file that is longer than those of ``kind`` is refused, as its reader would: else this takes as long as it claims.
    """
    done, most = 0, largest(kind, root)

    def digest(name: str) -> str:
        nonlocal done
        done += 1
        progress.count("source files compared", done, total)
        file = root if root.is_file() else root / name
        try:
            with open_file(file, most=most) as content:
                if DATA[kind].is_zip and not is_zipfile(content):
                    return ""  # nothing is read of it either
                content.seek(0)
                return hashlib.file_digest(content, "sha256").hexdigest()[:16]
        except OSError as error:
            raise UserError(f"{file}: {error.strerror}; the data set needs this file") from error

    return digest


def with_digests(listing: Listing, digest: Digest) -> Listing:
    """The same listing with every file's checksum."""
    return Listing(
        {
            folder: {
                name: state._replace(digest=digest(f"{folder}/{name}" if folder else name))
                for name, state in files.items()
            }
            for folder, files in listing.folders.items()
        }
    )


def renewed(then: Listing, now: Listing) -> Listing:
    """``now``, whose files hold what they held ``then``, with the checksums of then."""
    return Listing(
        {
            folder: {
                name: state._replace(digest=then.folders[folder][name].digest) for name, state in files.items()
            }
            for folder, files in now.folders.items()
        }
    )


def same_states(then: Listing, now: Listing) -> bool:
    """Whether names, sizes and times are the same; the time that this takes is the time to look at a data set."""
    return then.folders.keys() == now.folders.keys() and all(
        files.keys() == now.folders[folder].keys()
        and all(state[:2] == now.folders[folder][name][:2] for name, state in files.items())
        for folder, files in then.folders.items()
    )


def differences(then: Listing, now: Listing, digest: Digest, *, thorough: bool) -> Changes:
    """What was added, removed and altered since ``then``.

    A file of the same size is read where its time differs, or any with ``thorough``; but none where names or sizes
    have told already that there are changes.
    """
    before, after = then.files(), now.files()
    added = sorted((after.keys() - before.keys()) | now.empty_folders(beyond=then))
    removed = sorted((before.keys() - after.keys()) | then.empty_folders(beyond=now))
    common = [name for name in before if name in after]
    altered = [name for name in common if before[name].size != after[name].size]
    doubtful = [
        name
        for name in common
        if before[name].size == after[name].size and (thorough or before[name].mtime_ns != after[name].mtime_ns)
    ]
    complete = thorough or not (doubtful and (added or removed or altered))
    if complete:
        altered += [name for name in doubtful if digest(name) != before[name].digest]
    return Changes(added=tuple(added), removed=tuple(removed), altered=tuple(sorted(altered)), complete=complete)
