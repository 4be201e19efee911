"""Which images, and how many a step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from fastiseat.fields import check_types, require, require_count, require_text
from fastiseat.names.data import in_help

_MOST_PADDING = 4096  # more pixels than images have

Augment = Literal["standard", "idbh-cifar10-weak", "idbh-cifar10-strong", "idbh-svhn"]
IDBH = "idbh-"
"""What the names of IDBH's policies begin with."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images, and how many a step."""

    dataset: Annotated[str, arg(help=f"{in_help()}.")] = "digits"
    batch_size: int = 128
    """Images a step; the last partial batch of an epoch is dropped. Paper: 128."""
    flip: bool = False
    """Mirror every second training image, drawn anew each epoch. Paper: yes, SVHN no."""
    crop_padding: int = 0
    """Crop training images at random after padding them by as many pixels on each side. Paper: 4, SVHN none."""
    padding_mode: Literal["zero", "reflect"] = "zero"
    """What they are padded with. Released code: zero."""
    augment: Augment = "standard"
    """standard: what the three settings before say. idbh-…: a policy of IDBH in their place (CropShift, ColorShape,
    RandomErasing), for colour images."""
    images: Literal["packed", "jpeg"] = "packed"
    """packed: decoded once, the same pixels for every loader. jpeg: the original files, decoded in every epoch, for
    less memory and disk; ffcv's decoder is up to 6 of 255 levels off the others'."""
    extra: Path | None = None
    """Train on the images in this file too: RST's ti_500K_pseudo_labeled.pickle, or an npz of generated images with
    arrays image and label. They join the batch_size images of each step; an epoch is as long as without them."""
    extra_ratio: float = 0.5
    """Their share of the whole batch. Paper: 0.5, 128 and 128 images a step."""
    limit_train: int | None = None
    """Train on this many images only, of all classes alike, the same for every seed."""
    limit_test: int | None = None
    """Test on this many images only, chosen in the same way."""
    val_split: float = 0.0
    """Share of the training images held out, by class, to select the best weights on; 0 selects on the test
    set, which is the paper's protocol."""

    def __post_init__(self) -> None:
        check_types(self)
        require_text(dataset=self.dataset, extra=self.extra)
        require_count(1, "batch_size", self.batch_size)
        require(0 <= self.val_split < 1, "val_split", self.val_split, "must lie in 0 … 1, 1 excluded")
        require_count(0, "crop_padding", self.crop_padding, most=_MOST_PADDING)
        require(0 < self.extra_ratio < 1, "extra_ratio", self.extra_ratio, "must lie in 0 … 1, both excluded")
        for name, limit in {"limit_train": self.limit_train, "limit_test": self.limit_test}.items():
            if limit is not None:
                require_count(1, name, limit)
