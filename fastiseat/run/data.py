"""What a run trains on, chooses its best weights on and is tested on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastiseat.config import Config, Data
from fastiseat.errors import UserError
from fastiseat.pipelines.data import datasets
from fastiseat.pipelines.data.formats.extra import read_extra
from fastiseat.pipelines.loaders import choose as loaders
from fastiseat.pipelines.loaders.choose import AUTO, Chosen, Training
from fastiseat.pipelines.loaders.mix import extra_batch_size
from fastiseat.pipelines.protocol.augmentation import Augmentation
from fastiseat.pipelines.protocol.base import Batch, DataSet, Split, balanced_subset, held_out
from fastiseat.pipelines.protocol.order import Order
from fastiseat.pipelines.protocol.progress import SILENT, Progress
from fastiseat.pipelines.stores.checksums import verified


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
    extra: Split | None = None
    """What joins the training images in every batch."""
    verified: bool = True
    """Whether the whole data set was compared with what was prepared."""


def load_run_data(
    config: Config,
    *,
    data_dir: Path | None = None,
    prepared: Path | None = None,
    expected: str | None = None,
    progress: Progress = SILENT,
) -> RunData:
    """Load, limit and split; :class:`UserError` where nothing would be left, or images of one class alone.

    ``prepared`` and ``expected`` tell of the images that the run was trained on before, as
    :func:`fastiseat.pipelines.data.datasets.load` takes them.
    """
    whole = datasets.load(
        config.data.dataset, data_dir=data_dir, prepared=prepared, expected=expected, progress=progress
    )
    Augmentation.of(config.data, seed=config.run.seed).check(whole.train.images.shape[1:])
    used, test = _limit(whole.train, config.data.limit_train), limited(whole.test, config.data.limit_test)
    selection, name = test, "test"
    if config.data.val_split:
        used, held = _hold_out(whole.train, used, config)
        selection, name = whole.train.take(held), "val"
    training = _part(whole.train, used)
    limits = f"limit_train={config.data.limit_train}, val_split={config.data.val_split}"
    _require_classes(training, limits, "train on", whole)
    _require_classes(
        selection, limits if name == "val" else f"limit_test={config.data.limit_test}", "test on", whole
    )
    return RunData(
        whole=whole,
        training=training,
        rows=used,
        selection=selection,
        selection_name=name,
        test=test,
        extra=_extra(config.data, whole, progress),
        verified=verified(whole, "train", "test", progress=progress),
    )


def _require_classes(split: Split, limits: str, use: str, whole: DataSet) -> None:
    """Two of them: about one, a network that says nothing else is always right."""
    if (split.labels == split.labels[0]).all():
        name = whole.class_names[split.labels[0]]
        raise UserError(
            f"{limits}: leaves {len(split):,} images to {use}, all of class {name!r}; use more, of {whole.num_classes} "
            "classes"
        )


def _hold_out(
    train: Split, used: npt.NDArray[np.int64] | None, config: Config
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows to train on, and those to select the best weights on."""
    used = np.arange(len(train)) if used is None else used
    share = config.data.val_split
    mask = held_out(train.labels[used], share, seed=config.run.seed)
    if not mask.any():
        raise UserError(f"val_split={share}: holds out none of {len(used)} training images; use more, or 0")
    return used[~mask], used[mask]


def _extra(data: Data, whole: DataSet, progress: Progress) -> Split | None:
    if data.extra is None:
        return None
    height, width, channels = whole.train.images.shape[1:]
    extra = read_extra(data.extra, image_shape=(height, width, channels), num_classes=whole.num_classes)
    needed = extra_batch_size(data.batch_size, data.extra_ratio)
    if needed > len(extra):
        raise UserError(
            f"extra_ratio={data.extra_ratio}: {needed} extra images join {data.batch_size} others in each step, "
            f"{data.extra} holds {len(extra)}; lower --extra-ratio or --batch-size"
        )
    if (extra.labels == extra.labels[0]).all():
        name = whole.class_names[extra.labels[0]]
        progress.say(
            f"{data.extra}: all {len(extra):,} extra images are of class {name!r}, one of {whole.num_classes}; are "
            "these their labels?"
        )
    return extra


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
    shuffle: int = 0,
) -> Chosen:
    """The loader of a run, by name or ``auto``; :class:`UserError` where it can't be had.

    Each ``shuffle`` gives another order under the same seed.
    """
    batch_size, seed = config.data.batch_size, config.run.seed
    order = Order(size=len(data.training), batch_size=batch_size, seed=seed, stream=2 * shuffle)
    training = Training(whole=data.whole, split=data.training, rows=data.rows, data_dir=data_dir)
    chosen = loaders.load(loader, training, order, images=config.data.images, device=device, progress=progress)
    if data.extra is None:
        return chosen
    join = extra_batch_size(batch_size, config.data.extra_ratio)
    extra_order = Order(size=len(data.extra), batch_size=join, seed=seed, stream=2 * shuffle + 1)
    return loaders.with_extra(chosen, data.extra, extra_order, device=device)


def network_batch(
    batch: Batch, data: Data, *, seed: int, epoch: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Augmented images, float32 (m, C, H, W) channels-last in [0, 1], and labels (m,), on ``device``."""
    there = Batch(*(part.to(device, non_blocking=True) for part in batch.tensors))
    augmentation = replace(Augmentation.of(data, seed=seed), epoch=epoch)
    labels = there.labels if there.rows is None else there.labels.index_select(0, there.rows)
    return augmentation(there.images, there.index, there.rows), labels
