"""The reference loader of JPEG files: decoded by Pillow, whose pixels are those of the prepared arrays."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch

from fastiseat.errors import UserError
from fastiseat.pipelines.data.formats.images import decode
from fastiseat.pipelines.protocol.base import Batch
from fastiseat.pipelines.protocol.order import Order
from fastiseat.pipelines.stores.encoded import EncodedSplit
from fastiseat.pipelines.stores.store import AGAIN


def decode_file(data: EncodedSplit, row: int) -> npt.NDArray[np.uint8]:
    """File ``row`` as RGB, uint8 (H, W, 3); :class:`UserError` where it is damaged or of another size."""
    where = f"JPEG file {row} of the training images"
    image = decode(data.file(row).tobytes(), where)
    if image.shape != (data.height, data.width, 3):
        raise UserError(f"{where}: {image.shape[1]}×{image.shape[0]}, not {data.width}×{data.height}; {AGAIN}")
    return image


class JpegLoader:
    """Batches of ``data`` on the CPU, in ``order``, each decoded by one of ``workers`` threads.

    Pillow lets other threads run while it decodes. One batch more than there are threads is under way.

    Args:
        rows: int64 (order.size,), the row in ``data`` of each sample; the samples are the rows if None.
    """

    def __init__(
        self, data: EncodedSplit, order: Order, *, rows: npt.NDArray[np.int64] | None = None, workers: int = 2
    ) -> None:
        self.data, self.order, self.rows, self.workers = data, order, rows, workers

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0, from step ``first`` on."""
        steps = iter(self.order.epoch(epoch, first=first))
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="fastiseat-jpeg")
        try:
            pending: deque[Future[Batch]] = deque()
            pending.extend(pool.submit(self._batch, index) for index in islice(steps, self.workers + 1))
            while pending:
                # In the order of submission: which thread is done first may not decide which batch comes next.
                batch = pending.popleft().result()
                pending.extend(pool.submit(self._batch, index) for index in islice(steps, 1))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _batch(self, index: npt.NDArray[np.int64]) -> Batch:
        rows = index if self.rows is None else self.rows[index]
        images = np.stack([decode_file(self.data, row) for row in rows.tolist()])
        labels = self.data.labels[rows]
        return Batch(torch.from_numpy(images), torch.from_numpy(labels), torch.from_numpy(index))
