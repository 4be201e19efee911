"""Which samples each step of an epoch takes: known to every loader beforehand, from (seed, stream, epoch)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.base import epoch_order


@dataclass(frozen=True, kw_only=True)
class Order:
    """Batches of a shuffled data set, shared out among ranks; the last partial batch is dropped.

    The batches of all ranks together are those of a single process: rank r takes the r-th part of each.
    Where to go on is (epoch, step) and nothing else.

    Attributes:
        size: samples in the data set.
        batch_size: samples a step, over all ranks.
        seed: of the shuffling, 0 … 2**63 - 1.
        rank: of this process, 0 … world_size - 1.
        world_size: processes that train together.
        stream: which of several data sets of one run: each is shuffled by draws of its own.

    Raises:
        UserError: not even one batch is full, or a batch can't be shared evenly.
    """

    size: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    stream: int = 0

    def __post_init__(self) -> None:
        if self.batch_size > self.size:
            raise UserError(
                f"batch_size={self.batch_size}: there are {self.size} training images; use at most that"
            )
        if not 0 <= self.rank < self.world_size:
            raise UserError(f"rank={self.rank}: {self.world_size} processes have ranks 0 … {self.world_size - 1}")
        if self.batch_size % self.world_size:
            raise UserError(
                f"batch_size={self.batch_size} over {self.world_size} processes: it must be a multiple of their "
                "number"
            )

    def __len__(self) -> int:
        """Steps an epoch."""
        return self.size // self.batch_size

    @property
    def share(self) -> int:
        """Samples of a step that fall to this rank."""
        return self.batch_size // self.world_size

    def epoch(self, epoch: int, *, first: int = 0) -> npt.NDArray[np.int64]:
        """Samples of this rank in the steps ``first`` … of one epoch, (steps, share)."""
        order = epoch_order(self.size, seed=self.seed, epoch=epoch, stream=self.stream)
        return order[: len(self) * self.batch_size].reshape(len(self), self.world_size, self.share)[
            first:, self.rank
        ]
