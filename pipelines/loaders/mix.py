"""Extra data beside the data set's own: every batch has its share of both."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import torch

from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.base import Batch, Loader, closed_after

# More than any data set has samples, and above the low word of an index: an extra sample's augmentation is drawn
# from the same counter however large the data set beside it is.
EXTRA_INDEX = 2**32


class MixedLoader:
    """Each batch of ``own``, followed by one of ``extra``, on the device that both yield theirs on.

    An epoch is as long as one of ``own``. ``extra`` is shuffled anew for each: the n-th pass over it is its epoch n.
    With fewer batches than ``own`` it is passed over ceil(len(own) / len(extra)) times an epoch, the last time as far
    as needed; with more, an epoch takes the first len(own) of them.

    The ``index`` of an extra sample is its place in the extra data + :data:`EXTRA_INDEX`.
    """

    def __init__(self, own: Loader, extra: Loader) -> None:
        self.own, self.extra = own, extra
        self.passes = math.ceil(len(own) / len(extra))

    def __len__(self) -> int:
        return len(self.own)

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0, from step ``first`` on."""
        with (
            closed_after(self.own.epoch(epoch, first=first)) as own,
            closed_after(self._extra(epoch, first)) as extra,
        ):
            for batch in own:
                # Gathered, as rows of two data sets can't be read by one index.
                yield _joined(batch.gathered(), next(extra).gathered())

    def _extra(self, epoch: int, first: int) -> Iterator[Batch]:
        """The extra batches of one epoch, pass by pass."""
        begun, step = divmod(first, len(self.extra))
        for number in range(begun, self.passes):
            # Each pass an epoch of its own number, so that a resume at any step finds the order of the extra data
            # by counting.
            with closed_after(self.extra.epoch(epoch * self.passes + number, first=step)) as batches:
                yield from batches
            step = 0


def _joined(own: Batch, extra: Batch) -> Batch:
    moved = extra._replace(index=extra.index + EXTRA_INDEX)
    return Batch(*(torch.cat(pair) for pair in zip(own.tensors, moved.tensors, strict=True)))


def extra_batch_size(batch_size: int, ratio: float) -> int:
    """How many extra samples join ``batch_size`` own ones, so that they are ``ratio`` of the whole batch.

    That is batch_size · ratio / (1 - ratio), rounded to the nearest whole number and up from halfway: 0.5 joins 128
    to 128, and 0.7 joins 299 to them. ``ratio`` is taken for the decimal that it is written as.

    Raises:
        UserError: ``ratio`` is not between 0 and 1, or not even one sample would join.
    """
    if not 0 < ratio < 1:
        raise UserError(
            f"extra_ratio={ratio}: the extra data's share of a batch lies between 0 and 1; 0.5 takes as much extra as "
            "own data"
        )
    share = Fraction(str(ratio))
    size = math.floor(batch_size * share / (1 - share) + Fraction(1, 2))
    if not size:
        raise UserError(
            f"extra_ratio={ratio}: less than half an extra sample would join the {batch_size} of a batch; use a "
            "larger ratio or a larger batch"
        )
    return size
