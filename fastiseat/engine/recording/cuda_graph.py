"""CUDA graphs: a whole step is one launch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

import torch
from torch import Tensor


class GraphCapturer:
    """A CUDA graph, with a stream and a memory pool of its own.

    Graphs that were captured on one stream share cuBLAS's workspace there, which goes with the first of them.
    """

    warm_ups = 2

    def __init__(self, device: torch.device) -> None:
        # Whoever makes a new one may be about to drop another, which must not be running then.
        torch.cuda.synchronize(device)
        self._device = device
        # A capture is refused on the default stream, and libraries keep workspaces by stream.
        self._stream = torch.cuda.Stream(device)
        self._graph = torch.cuda.CUDAGraph()
        # Apart from the allocator's other memory for as long as the graph lives: a replay writes to it again,
        # whoever would have been given it meanwhile.
        self._pool = torch.cuda.graph_pool_handle()
        self._on_stream: AbstractContextManager[object] = nullcontext()

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        """On the stream of the capture, where cuDNN's benchmarks and cuBLAS's workspace belong."""
        current = torch.cuda.current_stream(self._device)
        # Both ways: the warm-up reads what the caller's stream has made, and is itself read there next.
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)

    def begin(self, persistent: Sequence[Tensor]) -> None:
        """See :class:`~fastiseat.engine.recording.recorder.Capturer`."""
        torch.cuda.synchronize(self._device)
        with torch.cuda.device(self._device):
            torch.cuda.empty_cache()  # the graph's own pool takes nothing from what is cached
        # Not torch.cuda.graph, which stays on its stream where the capture fails.
        self._on_stream = torch.cuda.stream(self._stream)
        self._on_stream.__enter__()
        try:
            # Loaders and checkpoints use the device in threads of their own meanwhile.
            self._graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        except BaseException:
            self._on_stream.__exit__(None, None, None)
            raise

    def end(self) -> None:
        """See :class:`~fastiseat.engine.recording.recorder.Capturer`."""
        try:
            self._graph.capture_end()
        except BaseException:
            self._clean_up()
            raise
        finally:
            self._on_stream.__exit__(None, None, None)

    def replay(self) -> None:
        """See :class:`~fastiseat.engine.recording.recorder.Capturer`."""
        # On the caller's current stream, whichever the capture was on: so it comes after the copies of its inputs
        # and before whoever reads its results, without an event.
        self._graph.replay()

    def _clean_up(self) -> None:
        """After a capture that failed, PyTorch before 2.13 goes on as in a capture: the allocator, the generator."""
        with suppress(Exception):
            torch._C._cuda_endAllocateToPool(self._stream.device_index, self._pool)
        with suppress(Exception):
            count, empty = torch.zeros((), device=self._device), torch.cuda.CUDAGraph()
            torch.cuda.synchronize(self._device)
            empty.capture_begin(capture_error_mode="thread_local")
            count.add_(1)  # an empty one is warned of
            empty.capture_end()
