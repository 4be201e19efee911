"""What a CUDA graph's recording does around the capture, on a stand-in for the driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from fastiseat.engine.recording.cuda_graph import GraphCapturer

CPU = torch.device("cpu")


class Graph:
    """Stands for a CUDA graph; each call is noted."""

    def __init__(self, log: list[str], failing: str) -> None:
        self.log, self.failing = log, failing

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(**settings: object) -> None:
            self.log.append(name)
            if name == self.failing and self.log.count(name) == 1:
                raise RuntimeError(f"{name} failed")

        return call


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What a capture calls, without a card: which streams are entered and left, and the graphs' calls."""
    fake = SimpleNamespace(log=[], failing="")

    @contextmanager
    def stream(_: object) -> Iterator[None]:
        fake.log.append("enter")
        yield
        fake.log.append("leave")

    current = SimpleNamespace(wait_stream=lambda _: fake.log.append("wait"), device_index=0)
    for name, value in {
        "Stream": lambda _: current,
        "current_stream": lambda _: current,
        "CUDAGraph": lambda: Graph(fake.log, fake.failing),
        "graph_pool_handle": lambda: (0, 1),
        "synchronize": lambda _: fake.log.append("synchronize"),
        "empty_cache": lambda: None,
        "device": lambda _: stream(None),
        "stream": stream,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return fake


def test_a_capture_is_begun_and_ended_on_its_stream(fake_cuda: SimpleNamespace) -> None:
    capturer = GraphCapturer(CPU)
    with capturer.warming_up():
        pass
    del fake_cuda.log[:]
    capturer.begin([])
    capturer.end()
    capturer.replay()
    assert fake_cuda.log[-5:] == ["enter", "capture_begin", "capture_end", "leave", "replay"]


@pytest.mark.parametrize("failing", ["capture_begin", "capture_end"])
def test_a_failed_capture_leaves_its_stream(failing: str, fake_cuda: SimpleNamespace) -> None:
    fake_cuda.failing = failing
    capturer = GraphCapturer(CPU)

    def capture() -> None:
        capturer.begin([])
        capturer.end()

    with pytest.raises(RuntimeError, match=f"{failing} failed"):
        capture()
    assert fake_cuda.log.count("enter") == fake_cuda.log.count("leave")
    assert fake_cuda.log[-1] == "leave"
    if failing == "capture_end":  # a good one after it brings PyTorch's generator out of the capture
        assert fake_cuda.log[-4:-1] == ["synchronize", "capture_begin", "capture_end"]
    assert fake_cuda.log.count("capture_end") == (2 if failing == "capture_end" else 0)
