"""What is released as files: checksums, homes, layouts, and where they lie in a folder. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Folders that are looked into for a data set that is not where it was said to be.
_MOST_NEAR = 100


@dataclass(frozen=True, kw_only=True)
class File:
    """A file that can be fetched: its name, home and MD5."""

    name: str
    url: str
    md5: str


@dataclass(frozen=True, kw_only=True)
class Release:
    """A data set as its makers released it."""

    name: str
    files: tuple[File, ...]
    """What its home offers."""
    folder: str = ""
    """What its archive unpacks to; empty where the files are used as they are."""
    marks: tuple[str, ...]
    """Patterns one of which matches in a folder that is the unpacked data set itself."""
    layout: str
    """What to put into the data folder, in words."""
    members: Mapping[str, str] = field(default_factory=dict)
    """MD5 of the files inside the archive, where they are published."""
    num_classes: int
    num_images: tuple[int, int]
    """Images for training and for testing."""
    side: int
    """Height and width of an image."""

    @property
    def archive(self) -> str:
        """Name of the one archive, or empty."""
        return self.files[0].name if self.folder else ""

    def locate(self, place: Path) -> Path | None:
        """The archive or the unpacked data set that ``place`` is or holds; the archive if there are both.

        An unpacked folder may lie in another of its name, as some programs unpack.
        """
        if place.is_file():
            return place if self.folder else None
        if self.archive and (place / self.archive).is_file():
            return place / self.archive
        if self.folder and (place / self.folder).is_dir():
            outer, inner = place / self.folder, place / self.folder / self.folder
            return inner if self._is(inner) and not self._is(outer) else outer
        return place if self._is(place) else None

    def near(self, place: Path) -> Path | None:
        """The folder directly above or below ``place`` that is or holds the data set."""
        try:
            below = sorted(entry for entry in place.iterdir() if entry.is_dir())[:_MOST_NEAR]
            return next((folder for folder in (place.parent, *below) if self.locate(folder)), None)
        except OSError:
            return None

    def _is(self, place: Path) -> bool:
        return any(next(place.glob(mark), None) for mark in self.marks)
