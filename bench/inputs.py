"""What is trained on while it is timed: random images of a data set's shape, or the data set itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.names.data import named_sets
from fastiseat.pipelines.data import datasets
from fastiseat.pipelines.data.locations import BUNDLED
from fastiseat.pipelines.protocol.base import Split
from fastiseat.pipelines.protocol.releases import RELEASES

SEED = 0


@dataclass(frozen=True, kw_only=True)
class Images:
    """The shape of a data set."""

    channels: int
    side: int
    num_classes: int
    num_images: tuple[int, int]
    """For training and for testing."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image as the network sees it."""
        return self.channels, self.side, self.side

    def title(self, dataset: str, batch_size: int) -> str:
        """For a table."""
        return f"{dataset} ({self.side}×{self.side}), batch {batch_size}"


def images_of(dataset: str) -> Images:
    """Shape and classes of a data set by name; :class:`UserError` for one whose files would have to be read."""
    if dataset in BUNDLED:
        whole = datasets.load(dataset)
        _, side, _, channels = whole.train.images.shape
        num_images = len(whole.train), len(whole.test)
        return Images(channels=channels, side=side, num_classes=whole.num_classes, num_images=num_images)
    if dataset not in RELEASES:
        known = ", ".join(named_sets())
        raise UserError(f"data set {dataset!r}: benchmarks know the shapes of {known}; choose one of them")
    release = RELEASES[dataset]
    return Images(channels=3, side=release.side, num_classes=release.num_classes, num_images=release.num_images)


def training_split(dataset: str, limit: int, data_dir: Path | None) -> Split:
    """The first ``limit`` training images; random ones of the same shape where no folder is given."""
    if data_dir is not None:
        train = datasets.load(dataset, data_dir=data_dir).train
        return train.take(np.arange(min(limit, len(train))))
    images = images_of(dataset)
    number = min(limit, images.num_images[0])
    random = _random()
    return Split(
        images=random.integers(256, size=(number, *images.shape[1:], images.channels), dtype=np.uint8),
        labels=random.integers(images.num_classes, size=number),
    )


def _random() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(SEED))


def batch(dataset: str, batch_size: int, data_dir: Path | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """One batch: images float32 (m, C, H, W) in [0, 1] and labels (m,) on ``device``; never zeros."""
    if data_dir is None:
        images = images_of(dataset)
        generator = torch.Generator().manual_seed(SEED)
        x = torch.rand(batch_size, *images.shape, generator=generator)
        y = torch.randint(images.num_classes, (batch_size,), generator=generator)
        return x.to(device), y.to(device)
    split = training_split(dataset, batch_size, data_dir)
    if len(split) < batch_size:
        raise UserError(f"batch_size={batch_size}: {dataset} has {len(split)} training images; use at most that")
    x = torch.from_numpy(np.ascontiguousarray(split.images)).permute(0, 3, 1, 2).float().div(255)
    return x.contiguous().to(device), torch.from_numpy(split.labels).to(device)
