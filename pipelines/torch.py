"""The reference loader: batches gathered from arrays by one indexing operation each."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fastiseat.errors import UserError
from fastiseat.pipelines.base import Batch, Split, epoch_order


class TorchLoader:
    """Batches of ``split`` on the CPU; :class:`fastiseat.errors.UserError` where not even one is full."""

    def __init__(self, split: Split, *, batch_size: int, seed: int) -> None:
        if batch_size > len(split):
            raise UserError(f"batch_size={batch_size}: there are {len(split)} training images; use at most that")
        self.split, self.batch_size, self.seed = split, batch_size, seed

    def __len__(self) -> int:
        return len(self.split) // self.batch_size

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0."""
        order = epoch_order(len(self.split), seed=self.seed, epoch=epoch)
        for step in range(len(self)):
            index = order[step * self.batch_size : (step + 1) * self.batch_size]
            samples = self.split.take(index)
            yield Batch(
                torch.from_numpy(samples.images), torch.from_numpy(samples.labels), torch.from_numpy(index)
            )
