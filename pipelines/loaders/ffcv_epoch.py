"""One epoch of FFCV, in a thread that ends when it should. Imports FFCV, for :mod:`fastiseat.pipelines.loaders.ffcv`.

FFCV's own thread sets PyTorch's number of threads for the whole process, waits for ever to hand over a batch that
nobody takes, and lets whoever waits for a batch wait for ever when reading one fails.
"""

from __future__ import annotations

import queue
from contextlib import suppress
from types import TracebackType

import numba
import numpy as np
import numpy.typing as npt
from ffcv.loader.epoch_iterator import EpochIterator

_LOOK_AGAIN_S = 0.1

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


class Epoch(EpochIterator):  # type: ignore[misc]  # FFCV has no types
    """Images uint8 (m, H, W, C) and labels int64 (m,) of ``rows`` uint64 (steps * m,); owned by the receiver.

    A context manager: leaving it ends the thread, and waits for that.
    """

    def run(self) -> None:
        """What the thread does."""
        try:
            numba.set_num_threads(self.loader.num_workers)  # of this thread alone
            for number, rows in enumerate(self.iter_ixes):
                images, labels = self.run_pipeline(number, rows, 0, None)
                # Copies: FFCV decodes the next batch into the same memory.
                if not self._hand_over((images.copy(), labels[:, 0].copy())):
                    return
        except BaseException as error:
            self._hand_over(error)

    def _hand_over(self, item: Arrays | BaseException) -> bool:
        """Put ``item`` into the queue, and say whether another one is wanted."""
        while not self.terminate_event.is_set():
            try:
                self.output_queue.put(item, timeout=_LOOK_AGAIN_S)
            except queue.Full:
                continue
            break
        return not self.terminate_event.is_set()

    def __next__(self) -> Arrays:
        item: Arrays | BaseException = self.output_queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """End the thread, which may finish the batch that it is at."""
        self.terminate_event.set()
        with suppress(queue.Empty):
            self.output_queue.get_nowait()  # for the batch that the thread may be waiting with
        self.join()

    def __del__(self) -> None:
        """Nothing: FFCV would close what is closed already, and may be in the thread itself."""

    def __enter__(self) -> Epoch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
