"""What a reader of official files hands over: labels and names at once, pixels block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.releases import Release, judge

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

_NUMBER = (int, float, np.number, np.bool_)

# Large enough that a block costs nothing beside its pixels, small enough to hold several in memory.
BLOCK_BYTES = 32 * 2**20


class ImageFile(NamedTuple):
    """The content of an image file, and where it lies, for messages."""

    where: str
    content: bytes


@dataclass(frozen=True, kw_only=True)
class SourceSplit:
    """One split as it lies in its files.

    Attributes:
        labels: int64 (n,).
        image_shape: height, width and channels of every image.
        blocks: called anew for each reading; yields uint8 (m, H, W, C), n images in all, in the labels' order.
        files: called anew for each reading; the n files that ``blocks`` decodes, in its order. None where images
            lie in no files of their own, or ``blocks`` resizes them.
    """

    labels: Labels
    image_shape: tuple[int, int, int]
    blocks: Callable[[], Iterator[Images]]
    files: Callable[[], Iterator[ImageFile]] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of all images together."""
        return (len(self.labels), *self.image_shape)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Both splits, checked: two classes or more, every one has a training image, labels are in range, images are of
    one size.

    Attributes:
        where: file or folder, the beginning of messages.
        official: whether this is the official release; None where nothing tells.
        remark: why, in words.
        md5s: of the files that were compared with the release.
    """

    where: str
    class_names: tuple[str, ...]
    train: SourceSplit
    test: SourceSplit
    official: bool | None
    remark: str
    md5s: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        last = len(self.class_names) - 1
        if not last:
            raise UserError(
                f"{self.where}: holds one class, {self.class_names[0]!r}, of which any network is right that always "
                "says so; two or more are needed"
            )
        for name, split in {"training": self.train, "test": self.test}.items():
            if not len(split.labels):
                raise UserError(f"{self.where}: there are no {name} images; both splits need some")
            wrong = split.labels[(split.labels < 0) | (split.labels > last)]
            if len(wrong):
                raise UserError(f"{self.where}: {name} label {wrong[0]} is out of range: labels lie in 0 … {last}")
        empty = np.flatnonzero(np.bincount(self.train.labels, minlength=last + 1) == 0)
        if len(empty):
            raise UserError(
                f"{self.where}: class {empty[0]} ({self.class_names[empty[0]]}) has no training image; add some, or "
                "leave the class out"
            )
        if (self.test.labels == self.test.labels[0]).all():
            raise UserError(
                f"{self.where}: all {len(self.test.labels):,} test images are of class {self.test.labels[0]} "
                f"({self.class_names[self.test.labels[0]]}): accuracy on them tells nothing; test on two or more"
            )
        if self.train.image_shape != self.test.image_shape:
            train, test = ("×".join(map(str, split.image_shape)) for split in (self.train, self.test))
            raise UserError(f"{self.where}: training images are {train}, test images {test}; they must be alike")


def released(
    release: Release,
    *,
    where: str,
    class_names: tuple[str, ...],
    train: SourceSplit,
    test: SourceSplit,
    md5s: Mapping[str, str],
) -> Source:
    """What a reader of ``release`` found, compared with it by ``md5s`` or, where there are none, by counts."""
    official, remark = judge(
        release,
        md5s,
        num_classes=len(class_names),
        num_images=(len(train.labels), len(test.labels)),
        side=train.image_shape[0],
    )
    return Source(
        where=where,
        class_names=class_names,
        train=train,
        test=test,
        official=official,
        remark=remark,
        md5s=md5s,
    )


def block_size(image_shape: tuple[int, ...]) -> int:
    """How many images of this shape make a block."""
    return max(1, BLOCK_BYTES // max(1, int(np.prod(image_shape))))


def in_blocks(images: Images) -> Callable[[], Iterator[Images]]:
    """The ``blocks`` of images (n, H, W, C) that are in memory."""
    step = block_size(images.shape[1:])
    return lambda: (images[first : first + step] for first in range(0, len(images), step))


def as_labels(values: Any, where: str, *, count: int) -> Labels:
    """``values`` as int64 (count,); :class:`UserError` where they are no ``count`` whole numbers."""
    try:
        # From lists within lists numpy would make an array of any size: a pickle can hold one list many times.
        plain = not isinstance(values, list | tuple) or all(isinstance(value, _NUMBER) for value in values)
        labels = np.asarray(values) if plain else np.empty(1, dtype=object)
    except ValueError:  # nested lists of unequal length
        labels = np.empty(1, dtype=object)
    if not labels.size:
        labels = labels.astype(np.int64)  # numpy takes an empty list for floats
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise UserError(f"{where}: labels are {labels.dtype} {labels.shape}; one whole number an image is needed")
    if len(labels) != count:
        raise UserError(f"{where}: {count} images, {len(labels)} labels; one label an image is needed")
    return labels.astype(np.int64)
