"""The data sets that are released as files: names, checksums, homes, layouts. Imports neither torch nor numpy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastiseat.errors import UserError
from fastiseat.safe import open_file
from fastiseat.safe.reading import ARRAYS

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


def _cifar(number: int, folder: str, md5: str, members: dict[str, str], marks: tuple[str, ...]) -> Release:
    archive = f"cifar-{number}-python.tar.gz"
    return Release(
        name=f"cifar{number}",
        files=(File(name=archive, url=f"https://www.cs.toronto.edu/~kriz/{archive}", md5=md5),),
        folder=folder,
        marks=marks,
        layout=f"{archive} or the folder {folder}",
        members=members,
        num_classes=number,
        num_images=(50_000, 10_000),
        side=32,
    )


_ALL = (
    _cifar(
        10,
        "cifar-10-batches-py",
        "c58f30108f718f92721af3b95e74349a",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
        ("data_batch_?", "test_batch"),
    ),
    _cifar(
        100,
        "cifar-100-python",
        "eb9058c3a382ffc7106e4002c42a8d85",
        {
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "meta": "7973b15100ade9c7d40fb424638fde48",
        },
        ("meta",),
    ),
    Release(
        name="svhn",
        files=(
            File(
                name="train_32x32.mat",
                url="http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
                md5="e26dedcc434d2e4c54c9b2d4a06d8373",
            ),
            File(
                name="test_32x32.mat",
                url="http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
                md5="eb5a983be6a315427106f1b164d9cef3",
            ),
        ),
        marks=("train_32x32.mat", "test_32x32.mat"),
        layout="train_32x32.mat and test_32x32.mat",
        num_classes=10,
        num_images=(73_257, 26_032),
        side=32,
    ),
    Release(
        name="tinyimagenet",
        files=(
            File(
                name="tiny-imagenet-200.zip",
                url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                md5="90528d7ca1a48142e341f4ef8d21d0de",
            ),
        ),
        folder="tiny-imagenet-200",
        marks=("train/n[0-9]*",),
        layout="tiny-imagenet-200.zip or the folder tiny-imagenet-200",
        num_classes=200,
        num_images=(100_000, 10_000),
        side=64,
    ),
)

RELEASES = {release.name: release for release in _ALL}


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
