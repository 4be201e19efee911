"""The DALI loader, with the real library on the CPU: the reference's batches, and nothing of the caller's changed."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_loaders import (
    CPU,
    assert_same_batches,
    assert_threads_end,
    by_pillow,
    damaged,
    encoded,
    jpeg_files,
    num_threads,
    order_of,
    packed,
    smooth_jpeg,
)

from fastiseat.errors import UserError
from fastiseat.pipelines.loaders.dali import DaliLoader
from fastiseat.pipelines.loaders.torch import TorchLoader

FILES = jpeg_files()


def pair(kind, order, **options):
    """The loader and its reference."""
    data = encoded(FILES) if kind == "jpeg" else packed(channels=1 if kind == "grey" else 3)
    reference = by_pillow(FILES) if kind == "jpeg" else data
    if (rows := options.get("rows")) is not None:
        reference = reference.take(rows)
    return DaliLoader(data, order, device=CPU, **options), TorchLoader(reference, order)


@pytest.mark.parametrize("kind", ["colour", "grey", "jpeg"])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_batches_are_those_of_the_reference(kind, world_size):
    """On a CPU DALI decodes as Pillow does, bit for bit."""
    for rank in range(world_size):
        loader, reference = pair(kind, order_of(30, world_size=world_size, rank=rank))
        assert len(loader) == len(reference) == 3
        for epoch, first in [(0, 0), (1, 0), (7, 2)]:
            assert_same_batches(loader.epoch(epoch, first=first), reference.epoch(epoch, first=first))


@pytest.mark.parametrize("kind", ["colour", "jpeg"])
def test_a_subset_of_the_rows(kind):
    loader, reference = pair(kind, order_of(8, batch_size=3), rows=np.array([3, 29, 4, 10, 11, 12, 0, 7]))
    assert_same_batches(loader.epoch(0), reference.epoch(0))


def test_no_steps_are_left():
    loader, _ = pair("colour", order_of(30))
    assert list(loader.epoch(0, first=3)) == []


@pytest.mark.parametrize("kind", ["colour", "jpeg"])
def test_batches_are_owned(kind):
    """Whoever writes to one changes neither the data nor another batch."""
    loader, reference = pair(kind, order_of(30, batch_size=2))
    kept = []
    for batch in loader.epoch(0):
        kept.append(batch.images.clone())
        batch.images.zero_(), batch.labels.zero_(), batch.index.zero_()
    assert all(map(torch.equal, kept, [batch.images for batch in reference.epoch(0)]))
    assert_same_batches(loader.epoch(0), reference.epoch(0))


@pytest.mark.parametrize("kind", ["colour", "jpeg"])
def test_an_abandoned_iterator_leaves_no_threads(kind):
    loader, reference = pair(kind, order_of(30, batch_size=2))
    before = num_threads()
    batches = loader.epoch(0)
    next(batches)
    assert num_threads() > before
    del batches
    assert_threads_end(before)
    assert_same_batches(loader.epoch(1), reference.epoch(1))


def test_epochs_side_by_side():
    loader, reference = pair("jpeg", order_of(30))
    both = list(zip(loader.epoch(0), loader.epoch(1), strict=True))
    assert_same_batches([batch for batch, _ in both], reference.epoch(0))
    assert_same_batches([batch for _, batch in both], reference.epoch(1))


@pytest.mark.parametrize("content", [damaged(FILES[17]), b"no image", FILES[17][:30]])
def test_a_damaged_file_is_named(content):
    files = [*FILES[:17], content, *FILES[18:]]
    loader = DaliLoader(encoded(files), order_of(30, batch_size=10), device=CPU)
    before = num_threads()
    with pytest.raises(UserError, match=r"^JPEG file 17 of the training images: cannot be decoded \(.*\); .*$"):
        list(loader.epoch(0))
    assert_threads_end(before)


@pytest.mark.parametrize("sizes", [[(25, 16), (25, 16)], [(24, 16), (25, 16)]])
def test_a_file_of_another_size_is_named(sizes):
    data = encoded([smooth_jpeg(0, size=size) for size in sizes])
    with pytest.raises(UserError, match=r"^JPEG file [01] of .*: 25×16, not 24×16; prepare it again with --force"):
        list(DaliLoader(data, order_of(2, batch_size=2), device=CPU).epoch(0))


def test_a_failure_of_dalis_own_is_one_line(monkeypatch):
    loader, _ = pair("colour", order_of(30))

    def fail(self, *_):
        raise RuntimeError(
            "Critical error in pipeline:\nError in CPU operator\n\nfailed to allocate\nNo longer valid."
        )

    monkeypatch.setattr(loader._dali.Pipeline, "run", fail)
    with pytest.raises(UserError, match=r"^DALI failed at the training images \d+, .*: failed to allocate; .*$"):
        list(loader.epoch(0))


def test_the_callers_randomness_is_left_alone():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    before = states()
    for kind in ("colour", "jpeg"):
        list(pair(kind, order_of(30))[0].epoch(0))
    assert states() == before


# In a process of its own, because another test may have imported DALI already.
FIRST_USE = """
import signal, torch
from pathlib import Path
from tiny_loaders import CPU, encoded, jpeg_files, order_of
from fastiseat.pipelines.loaders.dali import DaliLoader
def settings():
    status = Path("/proc/self/status").read_text().splitlines()
    caught = [line for line in status if line.startswith(("Sig", "Shd", "Cpus_allowed"))]
    handlers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
    return caught, handlers, torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_rng_state().tolist()
torch.set_num_threads(2)
before = settings()
list(DaliLoader(encoded(jpeg_files()), order_of(30), device=CPU).epoch(0))
assert settings() == before, (before, settings())
print("unchanged")
"""


def test_threads_and_signals_are_left_as_found(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "error", "-c", FIRST_USE]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("unchanged\n", "")


@pytest.mark.parametrize("module", ["nvidia.dali", "nvidia.dali.plugin.pytorch"])
def test_without_the_library(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"^--loader dali needs NVIDIA DALI, which is not installed .*\[dali\].*$"):
        DaliLoader(packed(), order_of(30), device=CPU)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["colour", "grey", "jpeg"])
def test_on_a_gpu(kind):
    """nvJPEG may round otherwise than libjpeg-turbo; everything else is the same bit for bit."""
    cuda = torch.device("cuda", torch.cuda.current_device())
    loader, reference = pair(kind, order_of(30))
    loader = DaliLoader(loader.data, loader.order, device=cuda)
    for batch, expected in zip(loader.epoch(2), reference.epoch(2), strict=True):
        assert {tensor.device for tensor in batch.tensors} == {cuda}
        assert torch.equal(batch.labels.cpu(), expected.labels) and torch.equal(batch.index.cpu(), expected.index)
        difference = (batch.images.cpu().int() - expected.images.int()).abs()
        assert difference.max() <= (4 if kind == "jpeg" else 0)
