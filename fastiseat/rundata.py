"""What a run trains on, chooses its best weights on and is tested on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastiseat.config import IDBH, Config, Data
from fastiseat.errors import UserError
from fastiseat.kernels import augment, idbh
from fastiseat.pipelines import datasets, loaders
from fastiseat.pipelines.base import Batch, DataSet, Split, balanced_subset, held_out
from fastiseat.pipelines.loaders import AUTO, Chosen, Training
from fastiseat.pipelines.order import Order
from fastiseat.pipelines.progress import SILENT, Progress


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The parts of a data set that a run uses, and what it does to a batch.

    ``selection`` is the test split, or with ``--val-split`` the held-out part of the training split;
    ``selection_name`` is ``test`` or ``val``.
    """

    whole: DataSet
    training: Split
    rows: npt.NDArray[np.int64] | None
    """int64, the place of each training image in ``whole.train``; None if they are all of them."""
    selection: Split
    selection_name: str
    test: Split


def load_run_data(config: Config, *, data_dir: Path | None = None, progress: Progress = SILENT) -> RunData:
    """Load, limit and split; :class:`UserError` where nothing would be left."""
    whole = datasets.load(config.data.dataset, data_dir=data_dir, progress=progress)
    used, test = _limit(whole.train, config.data.limit_train), limited(whole.test, config.data.limit_test)
    share = config.data.val_split
    if share == 0:
        training = _part(whole.train, used)
        return RunData(whole=whole, training=training, rows=used, selection=test, selection_name="test", test=test)
    used = np.arange(len(whole.train)) if used is None else used
    mask = held_out(whole.train.labels[used], share, seed=config.run.seed)
    held, kept = used[mask], used[~mask]
    if not len(held):
        raise UserError(f"val_split={share}: holds out none of {len(kept)} training images; use more, or 0")
    return RunData(
        whole=whole,
        training=whole.train.take(kept),
        rows=kept,
        selection=whole.train.take(held),
        selection_name="val",
        test=test,
    )


def limited(split: Split, limit: int | None) -> Split:
    """``limit`` images of ``split``, of all classes alike and always the same ones; all of them if None."""
    return _part(split, _limit(split, limit))


def _limit(split: Split, limit: int | None) -> npt.NDArray[np.int64] | None:
    return None if limit is None or limit >= len(split) else balanced_subset(split.labels, limit)


def _part(split: Split, rows: npt.NDArray[np.int64] | None) -> Split:
    return split if rows is None else split.take(rows)


def training_loader(
    config: Config,
    data: RunData,
    loader: str = AUTO,
    *,
    device: torch.device,
    data_dir: Path | None = None,
    progress: Progress = SILENT,
) -> Chosen:
    """The loader of a run, by name or ``auto``; :class:`UserError` where it can't be had."""
    order = Order(size=len(data.training), batch_size=config.data.batch_size, seed=config.run.seed)
    training = Training(whole=data.whole, split=data.training, rows=data.rows, data_dir=data_dir)
    return loaders.load(loader, training, order, images=config.data.images, device=device, progress=progress)


def network_batch(
    batch: Batch, data: Data, *, seed: int, epoch: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Augmented images, float32 (m, C, H, W) channels-last in [0, 1], and labels (m,), on ``device``."""
    images, labels, index = (part.to(device, non_blocking=True) for part in batch)
    if data.augment.startswith(IDBH):
        policy = data.augment.removeprefix(IDBH)
        return idbh(images, index, seed=seed, epoch=epoch, policy=policy), labels
    augmented = augment(
        images,
        index,
        seed=seed,
        epoch=epoch,
        flip=data.flip,
        pad=data.crop_padding,
        pad_mode=data.padding_mode,
    )
    return augmented, labels
