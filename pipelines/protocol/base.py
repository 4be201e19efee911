"""What every loader yields and in which order: the protocol, and the arrays that it reads from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.progress import SILENT, Progress

if TYPE_CHECKING:
    from torch import Tensor  # preparing data needs no torch, and does not wait for it

_HASHED_AT_ONCE = 1024


class Batch(NamedTuple):
    """``images`` uint8 (m, H, W, C), ``labels`` int64 (m,), ``index`` int64 (m,), the place in the data set.

    With ``rows`` int64 (m,) the samples are those of ``images`` and ``labels``, which may be any number then.
    """

    images: Tensor
    labels: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which no batch needs
    rows: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The fields that there are, in their order."""
        return self[:3] if self.rows is None else (*self[:3], self.rows)

    def gathered(self) -> Batch:
        """The same samples without ``rows``; the batch itself where it has none."""
        if self.rows is None:
            return self
        return Batch(self.images.index_select(0, self.rows), self.labels.index_select(0, self.rows), self.index)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images uint8 (n, H, W, C) and their labels int64 (n,), in memory or mapped."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: npt.NDArray[np.int64]) -> Split:
        """The samples at ``index``, in its order."""
        return Split(images=self.images[index], labels=self.labels[index])


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A training and a test split of labelled images.

    Attributes:
        fingerprint: what :func:`fingerprint` says of both splits; computed where it isn't given.
        official: whether these are the pixels and labels of the official release; None where nothing tells.
        class_names: one a class; the numbers where they aren't given.
        prepared: the folder of the arrays; None where they come with a package, or are made up.
        checksums: what was noted of them when they were prepared, by the names of their files.
    """

    name: str
    num_classes: int
    train: Split
    test: Split
    fingerprint: str = ""
    official: bool | None = None
    class_names: tuple[str, ...] = ()
    prepared: Path | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise UserError(f"{self.name}: has one class; any network is right about that: two or more are needed")
        for name, split in {"training": self.train, "test": self.test}.items():
            if len(split.images) != len(split.labels):
                raise UserError(f"{self.name}: {len(split.images)} {name} images, {len(split.labels)} labels")
            wrong = split.labels[(split.labels < 0) | (split.labels >= self.num_classes)]
            if len(wrong):
                last = self.num_classes - 1
                raise UserError(f"{self.name}: {name} label {wrong[0]} is out of range: labels lie in 0 … {last}")
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", fingerprint(self.train, self.test))
        if not self.class_names:
            object.__setattr__(self, "class_names", tuple(map(str, range(self.num_classes))))
        if len(self.class_names) != self.num_classes:
            raise UserError(f"{self.name}: {len(self.class_names)} names of {self.num_classes} classes")

    @property
    def num_channels(self) -> int:
        """Colour planes of an image."""
        return int(self.train.images.shape[3])


def fingerprint(train: Split, test: Split, progress: Progress = SILENT) -> str:
    """SHA-256 over pixels and labels of both splits, as 16 hexadecimal digits."""
    whole = [
        (split.images.shape, split.images.dtype, _parts(split.images), split.labels) for split in (train, test)
    ]
    return fingerprint_of_blocks(whole, progress)


def _parts(images: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    return (images[first : first + _HASHED_AT_ONCE] for first in range(0, len(images), _HASHED_AT_ONCE))


Blocks = tuple[tuple[int, ...], np.dtype[Any], Iterator[npt.NDArray[np.uint8]], npt.NDArray[np.int64]]
"""A split whose images need not be in memory together: their shape and dtype, parts of them in order, all labels."""


def fingerprint_of_blocks(splits: Sequence[Blocks], progress: Progress = SILENT) -> str:
    """The :func:`fingerprint` of the training and the test split."""
    digest, done, total = hashlib.sha256(), 0, sum(len(labels) for *_, labels in splits)
    for shape, dtype, blocks, labels in splits:
        digest.update(repr((shape, dtype.str)).encode())
        for block in blocks:
            digest.update(np.ascontiguousarray(block).data)
            done += len(block)
            progress.count("images checked", done, total)
        digest.update(repr((labels.shape, labels.dtype.str)).encode())
        digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()[:16]


class Loader(Protocol):
    """Batches of one training split; the same order gives the same batches from every implementation."""

    def __len__(self) -> int:
        """Batches an epoch; the last partial one is dropped."""

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0, from step ``first`` on, as the loader's ``Order`` has them."""


@contextmanager
def closed_after(batches: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
    """``batches``; what they hold, threads for example, is let go at the end of the block, at whichever batch."""
    try:
        yield batches
    finally:
        if close := getattr(batches, "close", None):  # generators have one, other iterators need none
            close()


def _random_keys(seed: int, counter: int, n: int) -> npt.NDArray[np.uint64]:
    # numpy promises that Philox's raw stream never changes; it promises no such thing of permutation().
    return np.random.Philox(key=np.array([seed, counter], dtype=np.uint64)).random_raw(n)


def epoch_order(n: int, *, seed: int, epoch: int, stream: int = 0) -> npt.NDArray[np.int64]:
    """The permutation of 0 … n-1 that epoch ``epoch`` trains in: a function of (seed, epoch, stream) alone.

    ``stream``, 0 … 2**31 - 1, numbers the data sets of one run; epochs count below 2**32.
    """
    assert 0 <= epoch < 2**32 and 0 <= stream < 2**31  # 2**63 and the number after it are drawn from elsewhere
    return np.argsort(_random_keys(seed, epoch + stream * 2**32, n), kind="stable").astype(np.int64)


def held_out(labels: npt.NDArray[np.int64], share: float, *, seed: int) -> npt.NDArray[np.bool_]:
    """Marks ``share`` of each class (rounded), chosen by ``seed``: the validation part of a training split."""
    keys = _random_keys(seed, 2**63, len(labels))  # no epoch counts that far
    mask = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        mask[members[np.argsort(keys[members], kind="stable")[: round(share * len(members))]]] = True
    return mask


def balanced_subset(labels: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """``size`` of the indices into ``labels``, in ascending order: the classes take turns, a fixed draw in each."""
    keys = _random_keys(0, 2**63 + 1, len(labels))  # the same for every seed: a limit is part of the data
    order = np.lexsort((keys, labels))
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    turn = np.arange(len(labels)) - np.repeat(first, counts)  # the how-manieth of its class
    return np.sort(order[np.lexsort((keys[order], turn))[:size]]).astype(np.int64)
