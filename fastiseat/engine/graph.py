"""CUDA graphs: a whole step is one launch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class GraphCapturer:
    """A CUDA graph, with a stream and a memory pool of its own.

    Graphs that were captured on one stream share cuBLAS's workspace there, which goes with the first of them.
    """

    warm_ups = 2

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._graph = torch.cuda.CUDAGraph()
        # Loaders and checkpoints use the device in threads of their own meanwhile.
        self._recording = torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local")

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        """On the stream of the capture, where cuDNN's benchmarks and cuBLAS's workspace belong."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def begin(self, persistent: Sequence[Tensor]) -> None:
        """See :class:`~fastiseat.engine.recorder.Capturer`."""
        self._recording.__enter__()

    def end(self) -> None:
        """See :class:`~fastiseat.engine.recorder.Capturer`."""
        self._recording.__exit__(None, None, None)

    def replay(self) -> None:
        """See :class:`~fastiseat.engine.recorder.Capturer`."""
        self._graph.replay()
