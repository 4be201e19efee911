"""The resident loader: the whole training split in the device's memory, and which of it a batch is; no more."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from fastiseat.pipelines.protocol.base import Batch, Split
from fastiseat.pipelines.protocol.order import Order

_COPIED_AT_ONCE = 4096


def resident_bytes(split: Split) -> int:
    """What images and labels take on the device."""
    return split.images.nbytes + split.labels.nbytes


class ResidentLoader:
    """Batches of ``split``, in ``order``, on ``device``, where all of it lies as uint8.

    Every batch has all images and labels, the same two tensors each time, and ``rows`` that say which: whoever needs
    the pixels gathers them, together with what else is done to them. An epoch's order is copied there once, at its
    beginning; after that nothing passes between host and device.
    """

    def __init__(self, split: Split, order: Order, *, device: torch.device) -> None:
        self.order, self.device = order, device
        self._images = torch.empty(split.images.shape, dtype=torch.uint8, device=device)
        # In parts: a copy of a mapped file as a whole would take the memory of the host a second time.
        for first in range(0, len(split), _COPIED_AT_ONCE):
            part = np.array(split.images[first : first + _COPIED_AT_ONCE])
            self._images[first : first + len(part)] = torch.from_numpy(part).to(device)
        self._labels = torch.from_numpy(np.array(split.labels)).to(device)

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0, from step ``first`` on."""
        # One copy an epoch, of which each batch's index is a view.
        for index in torch.from_numpy(self.order.epoch(epoch, first=first)).to(self.device):
            yield Batch(self._images, self._labels, index, rows=index)
