"""The reference loader: batches gathered from arrays by one indexing operation each."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fastiseat.pipelines.protocol.base import Batch, Split
from fastiseat.pipelines.protocol.order import Order


class TorchLoader:
    """Batches of ``split`` on the CPU, in ``order``."""

    def __init__(self, split: Split, order: Order) -> None:
        self.split, self.order = split, order

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0, from step ``first`` on."""
        for index in self.order.epoch(epoch, first=first):
            samples = self.split.take(index)
            yield Batch(
                torch.from_numpy(samples.images), torch.from_numpy(samples.labels), torch.from_numpy(index)
            )
