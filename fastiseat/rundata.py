"""What a run trains on, chooses its best weights on and is tested on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastiseat.config import Config, Data
from fastiseat.errors import UserError
from fastiseat.kernels import augment
from fastiseat.pipelines import datasets
from fastiseat.pipelines.base import Batch, DataSet, Split, balanced_subset, held_out
from fastiseat.pipelines.progress import SILENT, Progress


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The parts of a data set that a run uses, and what it does to a batch.

    ``selection`` is the test split, or with ``--val-split`` the held-out part of the training split;
    ``selection_name`` is ``test`` or ``val``.
    """

    whole: DataSet
    training: Split
    selection: Split
    selection_name: str
    test: Split


def load_run_data(config: Config, *, data_dir: Path | None = None, progress: Progress = SILENT) -> RunData:
    """Load, limit and split; :class:`UserError` where nothing would be left."""
    whole = datasets.load(config.data.dataset, data_dir=data_dir, progress=progress)
    training, test = limited(whole.train, config.data.limit_train), limited(whole.test, config.data.limit_test)
    share = config.data.val_split
    if share == 0:
        return RunData(whole=whole, training=training, selection=test, selection_name="test", test=test)
    mask = held_out(training.labels, share, seed=config.run.seed)
    held, kept = training.take(np.flatnonzero(mask)), training.take(np.flatnonzero(~mask))
    if not len(held):
        raise UserError(f"val_split={share}: holds out none of {len(kept)} training images; use more, or 0")
    return RunData(whole=whole, training=kept, selection=held, selection_name="val", test=test)


def limited(split: Split, limit: int | None) -> Split:
    """``limit`` images of ``split``, of all classes alike and always the same ones; all of them if None."""
    if limit is None or limit >= len(split):
        return split
    return split.take(balanced_subset(split.labels, limit))


def network_batch(
    batch: Batch, data: Data, *, seed: int, epoch: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Augmented images, float32 (m, C, H, W) channels-last in [0, 1], and labels (m,), on ``device``."""
    images = augment(
        batch.images.to(device, non_blocking=True),
        batch.index.to(device, non_blocking=True),
        seed=seed,
        epoch=epoch,
        flip=data.flip,
        pad=data.crop_padding,
        pad_mode=data.padding_mode,
    )
    return images, batch.labels.to(device, non_blocking=True)
