"""Whether files are the release that they are named after. Imports neither torch nor numpy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from fastiseat.errors import UserError
from fastiseat.names.data import DATA
from fastiseat.names.releases import File, Release
from fastiseat.safe import open_file
from fastiseat.safe.reading import ARRAYS

__all__ = ["RELEASES", "File", "Release", "judge", "md5_of", "verdict"]

RELEASES = {name: kind.release for name, kind in DATA.items() if kind.release is not None}
"""The data sets that are released as files."""


def md5_of(path: Path) -> str:
    """The MD5 of a file's content."""
    try:
        with open_file(path, most=ARRAYS) as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check its permissions and the disk") from error


def judge(
    release: Release, md5s: Mapping[str, str], *, num_classes: int, num_images: tuple[int, int], side: int
) -> tuple[bool | None, str]:
    """Whether files with these ``md5s`` are the release, None where nothing tells; and why, in words."""
    published = {file.name: file.md5 for file in release.files} | dict(release.members)
    for name, md5 in md5s.items():
        if md5 != published[name]:
            return False, f"{name} has MD5 {md5}, the release's has {published[name]}"
    if md5s:
        return True, "by MD5"
    found = (num_classes, *num_images, side)
    if found == (release.num_classes, *release.num_images, release.side):
        return None, f"the release's counts; MD5s are published of {release.archive} alone, not of its content"
    expected = _counts(release.num_classes, release.num_images, release.side)
    return False, f"{_counts(num_classes, num_images, side)}; the release has {expected}"


def verdict(official: bool | None, remark: str) -> str:
    """``official: no (why)``."""
    return f"official: { {True: 'yes', False: 'no', None: 'unknown'}[official] } ({remark})"


def _counts(num_classes: int, num_images: tuple[int, int], side: int) -> str:
    train, test = num_images
    return f"{num_classes} classes, {train:,} and {test:,} images of {side}×{side}"
