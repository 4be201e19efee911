"""Batches on their way to the device while the step before them runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from fastiseat.pipelines.protocol.base import Batch, Loader, closed_after

# One batch is copied while the next is fetched; a third would only wait.
_AHEAD = 2


class Prefetched:
    """The batches of ``loader``, on ``device``, fetched by a thread that is two batches ahead.

    The thread lives for one epoch, or until its iterator is closed or forgotten. What ``loader`` raises is raised
    here, in its turn. On a GPU, batches belong to the stream that is current when an epoch's first one is asked for.
    A batch that has to travel is gathered before: ``rows`` stay with what lies on ``device`` already.
    """

    def __init__(self, loader: Loader, device: torch.device) -> None:
        self.loader, self.device = loader, device

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0, from step ``first`` on."""
        with closed_after(iter(self.loader.epoch(epoch, first=first))) as batches:
            yield from self._ahead(batches)

    def _ahead(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        way: _Way = _CudaWay(self.device) if self.device.type == "cuda" else _PlainWay(self.device)
        # One: iterators are no thread's to share, and batches come in their order by themselves.
        pool = ThreadPoolExecutor(1, thread_name_prefix="fastiseat-prefetch")

        def fetch(slot: int) -> Batch | None:
            with way.in_thread():
                batch = next(batches, None)
                return None if batch is None else way.send(slot, batch)

        try:
            pending: deque[tuple[int, Future[Batch | None]]] = deque()
            pending.extend((slot, pool.submit(fetch, slot)) for slot in range(_AHEAD))
            while pending:
                slot, future = pending.popleft()
                sent = future.result()
                if sent is None:
                    return
                batch = way.receive(slot, sent)
                # Asked for before the batch is handed out, so that it is fetched while the consumer's step runs;
                # the slot was emptied by receive().
                pending.append((slot, pool.submit(fetch, slot)))
                yield batch
        finally:
            # Waits for the thread, which may be writing into the buffers that close() is to free.
            pool.shutdown(cancel_futures=True)
            way.close()


class _Way(Protocol):
    """How a batch gets from the thread that fetches it to the consumer: by one of ``_AHEAD`` slots.

    A slot is used again only after what was sent by it was received.
    """

    def in_thread(self) -> AbstractContextManager[object]:
        """What holds in the thread while it fetches and sends."""

    def send(self, slot: int, batch: Batch) -> Batch:
        """Called in the thread."""

    def receive(self, slot: int, batch: Batch) -> Batch:
        """Called by the consumer, with what ``send`` returned."""

    def close(self) -> None:
        """Called by the consumer, when the thread has ended."""


class _PlainWay:
    """To a device that has no streams: there is nothing to do beforehand."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def in_thread(self) -> AbstractContextManager[object]:
        return nullcontext()

    def send(self, slot: int, batch: Batch) -> Batch:
        return batch if batch.images.device == self.device else batch.gathered()

    def receive(self, slot: int, batch: Batch) -> Batch:
        return Batch(*(tensor.to(self.device) for tensor in batch.tensors))

    def close(self) -> None:
        pass


class _CudaWay:
    """To a GPU: into pinned memory, from there to the device on a stream of its own, then to the consumer.

    A slot's buffers, pinned and on the device, are allocated once. Three events order their use: ``send`` overwrites
    the pinned one when the copy from it is over, the copy overwrites the one on the device when the consumer's clone
    is over, and the clone waits for the copy. The clone lies in memory that the consumer's own stream allocated and
    frees, so torch's allocator hands it on in that stream's order, however long the consumer keeps it: no tensor
    crosses streams, and ``record_stream`` has nothing to guard. The price is one copy of a batch of bytes within the
    device.
    """

    def __init__(self, device: torch.device) -> None:
        self.consumer = torch.cuda.current_stream(device)
        self.side = torch.cuda.Stream(device)
        self.pinned: dict[int, Batch] = {}
        self.staged: dict[int, Batch] = {}
        self.copied = [torch.cuda.Event() for _ in range(_AHEAD)]
        self.cloned = [torch.cuda.Event() for _ in range(_AHEAD)]

    def in_thread(self) -> AbstractContextManager[object]:
        # A loader that works on the device itself works on the consumer's stream: its batches pass as they are.
        return torch.cuda.stream(self.consumer)

    def send(self, slot: int, batch: Batch) -> Batch:
        if self._there(batch.images):
            return batch
        batch = batch.gathered()
        if slot not in self.pinned:
            self._allocate(slot, batch)
        # On the host, as it is the host that writes to pinned memory next; all other waits are the streams'.
        self.copied[slot].synchronize()
        with torch.cuda.stream(self.side):
            # On the device alone: this thread goes on, and the copy begins when the consumer's clone is over.
            self.side.wait_event(self.cloned[slot])
            slots = (self.pinned[slot].tensors, self.staged[slot].tensors)
            for pinned, staged, tensor in zip(*slots, batch.tensors, strict=True):
                # From pinned memory alone a copy to the device runs beside computation.
                pinned.copy_(tensor)
                staged.copy_(pinned, non_blocking=True)
            self.copied[slot].record(self.side)
        return self.staged[slot]

    def receive(self, slot: int, batch: Batch) -> Batch:
        if batch is not self.staged.get(slot):
            return batch
        with torch.cuda.stream(self.consumer):
            self.consumer.wait_event(self.copied[slot])
            batch = Batch(*(staged.clone() for staged in batch.tensors))
            self.cloned[slot].record(self.consumer)
        return batch

    def close(self) -> None:
        # The buffers are freed now; the side stream's allocator doesn't know of the consumer's last clones.
        for event in (*self.copied, *self.cloned):
            event.synchronize()

    def _there(self, tensor: Tensor) -> bool:
        return tensor.device == self.consumer.device

    def _allocate(self, slot: int, batch: Batch) -> None:
        self.pinned[slot] = Batch(*(torch.empty_like(tensor, pin_memory=True) for tensor in batch.tensors))
        with torch.cuda.stream(self.side):
            self.staged[slot] = Batch(
                *(torch.empty_like(tensor, device=self.side.device) for tensor in batch.tensors)
            )
