"""All data sets by name: what each is, where its reader lies, and which files that reads. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from fastiseat.names.releases import File, Release
from fastiseat.safe.reading import ARRAYS, BATCH, IMAGE


@dataclass(frozen=True, kw_only=True)
class DataKind:
    """A data set, or a kind of the user's own data: all that is told of it before its files are read.

    Attributes:
        home: the module that reads it. It defines ``read_source(kind, path, image_size)``, a context of a
            :class:`fastiseat.pipelines.protocol.source.Source`; of a set that comes with a package, ``read()``, a
            :class:`fastiseat.pipelines.protocol.base.DataSet`.
        package: what it comes with, installed; such a set has no files and is never prepared.
        release: its files, where it is released as some.
        path: what is given of the user's own data, named KIND:PATH; empty for a set of one name.
        parts: what its reader reads directly in its folder, files or folders of images; ``test|val`` is the first that
            holds class folders. Those of a release are its members, or its files where these are no archive.
        most: bytes that one of its files has at most; None where a file's own header tells.
        most_alone: the same where it is one file, an archive.
        is_zip: whether nothing is read of a file that is no zip archive.
        has_jpeg: whether its images may be JPEG files.
        resizes: whether its images may be prepared at another size.
        side: of its images, where its name tells.
        hub: its name on the Hugging Face Hub.
    """

    home: str
    package: str = ""
    release: Release | None = None
    path: str = ""
    parts: tuple[str, ...] = ()
    most: int | None = None
    most_alone: int | None = None
    is_zip: bool = False
    has_jpeg: bool = False
    resizes: bool = False
    side: int | None = None
    hub: str = ""

    def __post_init__(self) -> None:
        has_parts = self.parts or (self.release and (self.release.members or not self.release.folder))
        assert self.package or has_parts, "a change of files that nobody names would go unnoticed"


def _cifar(number: int, folder: str, md5: str, members: dict[str, str], marks: tuple[str, ...]) -> DataKind:
    archive = f"cifar-{number}-python.tar.gz"
    release = Release(
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
    return DataKind(
        home="fastiseat.pipelines.data.formats.cifar",
        release=release,
        most=BATCH,
        most_alone=BATCH,
        side=32,
        hub=f"uoft-cs/cifar{number}",
    )


DATA: dict[str, DataKind] = {
    "digits": DataKind(home="fastiseat.pipelines.data.formats.digits", package="scikit-learn", side=8),
    "cifar10": _cifar(
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
    "cifar100": _cifar(
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
    "svhn": DataKind(
        home="fastiseat.pipelines.data.formats.svhn",
        release=Release(
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
        most=ARRAYS,
        most_alone=ARRAYS,
        side=32,
        hub="ufldl-stanford/svhn",
    ),
    "tinyimagenet": DataKind(
        home="fastiseat.pipelines.data.formats.tiny_imagenet",
        release=Release(
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
        parts=("train", "val", "words.txt"),
        most=IMAGE,
        most_alone=ARRAYS,
        has_jpeg=True,
        side=64,
        hub="zh-plus/tiny-imagenet",
    ),
    "imagefolder": DataKind(
        home="fastiseat.pipelines.data.formats.image_folder",
        path="DIR",
        parts=("train", "test|val"),
        most=IMAGE,
        most_alone=ARRAYS,
        has_jpeg=True,
        resizes=True,
    ),
    "npz": DataKind(
        home="fastiseat.pipelines.data.formats.npz", path="PATH", parts=("train.npz", "test.npz"), is_zip=True
    ),
}
"""Every data set and kind of own data; an entry more is all that one needs beside its own file."""


def written(kind: str) -> str:
    """How a kind is named: ``cifar10``, ``imagefolder:DIR``."""
    return f"{kind}:{DATA[kind].path}" if DATA[kind].path else kind


def named_sets() -> tuple[str, ...]:
    """Those of one name."""
    return tuple(name for name, kind in DATA.items() if not kind.path)


def own_kinds() -> tuple[str, ...]:
    """The kinds of the user's own data, named KIND:PATH."""
    return tuple(name for name, kind in DATA.items() if kind.path)


def in_help() -> str:
    """``digits, cifar10, …, or own data: imagefolder:DIR, npz:PATH``."""
    return f"{', '.join(named_sets())}, or own data: {', '.join(map(written, own_kinds()))}"


def prepared_in_help() -> str:
    """Those that are prepared: ``cifar10, …, imagefolder:DIR or npz:PATH``."""
    *first, last = [written(name) for name, kind in DATA.items() if not kind.package]
    return f"{', '.join(first)} or {last}"
