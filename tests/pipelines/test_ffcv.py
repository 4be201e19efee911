"""FFCV's batches: those of the reference loader, owned by who gets them, and nothing else changed or left behind."""

import builtins
import io
import multiprocessing.dummy
import os
import random
import signal
import subprocess
import sys
import threading
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from betons import PRINT, encoded, smooth_jpeg, split, write
from PIL import Image

from fastiseat.errors import UserError
from fastiseat.pipelines.loaders.ffcv import FfcvLoader, _settings_kept
from fastiseat.pipelines.loaders.torch import TorchLoader
from fastiseat.pipelines.protocol.base import Split
from fastiseat.pipelines.protocol.order import Order

# One worker for all: FFCV is slow to import, and what it compiles is compiled in each process.
pytestmark = pytest.mark.xdist_group("ffcv")

TRAIN = split(n=70)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return write(tmp_path_factory.mktemp("betons") / "mine.ffcv", TRAIN)


FILES = [smooth_jpeg(seed, mode="L" if seed % 4 == 0 else "RGB") for seed in range(48)]


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory):
    return write(tmp_path_factory.mktemp("betons") / "mine.ffcv-jpeg", encoded(FILES))


def same(found, expected):
    """Whether two iterators give the same batches, and how many."""
    pairs = list(zip(found, expected, strict=True))
    for one, other in pairs:
        for tensor, reference in zip(one.tensors, other.tensors, strict=True):
            assert tensor.dtype == reference.dtype and torch.equal(tensor, reference)
    return len(pairs)


def test_epochs_are_those_of_the_reference(packed):
    order = Order(size=70, batch_size=16, seed=3)
    loader, reference = FfcvLoader(packed, order), TorchLoader(TRAIN, order)
    assert len(loader) == len(reference) == 4
    for epoch in (0, 1, 7):
        assert same(loader.epoch(epoch), reference.epoch(epoch)) == 4
    for first in (1, 3, 4):
        assert same(loader.epoch(2, first=first), reference.epoch(2, first=first)) == 4 - first


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_a_subset_of_rows(packed, world_size):
    rows = np.flatnonzero(np.arange(70) % 3 > 0)[::-1].copy()
    for rank in range(world_size):
        order = Order(size=len(rows), batch_size=20, seed=5, rank=rank, world_size=world_size)
        loader = FfcvLoader(packed, order, rows=rows)
        assert same(loader.epoch(1), TorchLoader(TRAIN.take(rows), order).epoch(1)) == 2


@pytest.mark.parametrize(
    ("n", "side", "channels", "batch_size"), [(30, 9, 1, 7), (1, 32, 3, 1), (900, 64, 3, 800)]
)
def test_other_shapes(tmp_path, n, side, channels, batch_size):
    """Grey, a single image, and a batch larger than a page of the file."""
    train, order = split(n, side, channels), Order(size=n, batch_size=batch_size, seed=0)
    loader = FfcvLoader(write(tmp_path / "mine.ffcv", train), order)
    assert same(loader.epoch(0), TorchLoader(train, order).epoch(0)) == n // batch_size


def test_batches_are_owned(packed):
    order = Order(size=70, batch_size=4, seed=0)
    batches = []
    for batch in FfcvLoader(packed, order).epoch(0):
        batches.append(Split(images=batch.images.numpy().copy(), labels=batch.labels.numpy().copy()))
        batch.images.fill_(0)
        batch.labels.fill_(0)
    expected = list(TorchLoader(TRAIN, order).epoch(0))
    for batch, reference in zip(batches, expected, strict=True):
        assert (batch.images == reference.images.numpy()).all() and (
            batch.labels == reference.labels.numpy()
        ).all()
    held = list(FfcvLoader(packed, order).epoch(0))
    assert same(held, expected) == 17


@pytest.mark.parametrize("taken", [0, 1, 5, 17])
def test_an_abandoned_epoch_leaves_no_thread(packed, taken):
    loader, before = FfcvLoader(packed, Order(size=70, batch_size=4, seed=0)), threading.active_count()
    batches = loader.epoch(0)
    assert len(list(islice(batches, taken))) == taken
    batches.close()
    assert threading.active_count() == before
    for _ in zip(range(taken), loader.epoch(0), strict=False):
        pass  # the iterator is dropped without being closed
    assert threading.active_count() == before


def test_two_epochs_at_once(packed):
    order = Order(size=70, batch_size=4, seed=0)
    loader, reference = FfcvLoader(packed, order), TorchLoader(TRAIN, order)
    for found, expected in zip(
        zip(loader.epoch(0), loader.epoch(1), strict=True),
        zip(reference.epoch(0), reference.epoch(1), strict=True),
        strict=True,
    ):
        assert same(found, expected) == 2


def test_an_error_while_reading_reaches_the_consumer(packed, monkeypatch):
    from fastiseat.pipelines.loaders.ffcv_epoch import Epoch

    def fail(*_):
        raise MemoryError("no memory for a batch")

    loader, before = FfcvLoader(packed, Order(size=70, batch_size=4, seed=0)), threading.active_count()
    monkeypatch.setattr(Epoch, "run_pipeline", fail)
    with pytest.raises(MemoryError, match="no memory for a batch"):
        next(loader.epoch(0))
    assert threading.active_count() == before


def test_a_file_that_is_replaced_is_still_read(tmp_path):
    path, order = tmp_path / "mine.ffcv", Order(size=70, batch_size=10, seed=0)
    loader = FfcvLoader(write(path, TRAIN), order)
    write(path, split(3, side=32))
    assert same(loader.epoch(0), TorchLoader(TRAIN, order).epoch(0)) == 7


@pytest.mark.parametrize("train", [split(), split(7, side=5, channels=1), split(2000, side=64)])
def test_the_file_is_the_one_that_ffcv_writes(tmp_path, monkeypatch, train):
    with _settings_kept():
        from ffcv import writer
        from ffcv.fields import IntField, NDArrayField

    # FFCV's worker process would be a fork of this one, with its threads; and its bar is of no use.
    monkeypatch.setattr(writer, "Process", multiprocessing.dummy.Process)
    monkeypatch.setattr(writer, "tqdm", lambda total: SimpleNamespace(update=int, close=int))
    fields = {"image": NDArrayField(np.dtype(np.uint8), train.images.shape[1:]), "label": IntField()}
    samples = list(zip(train.images, train.labels, strict=True))
    writer.DatasetWriter(str(tmp_path / "theirs.beton"), fields, num_workers=1).from_indexed_dataset(samples)
    ours = write(tmp_path / "mine.ffcv", train)
    assert ours.file.read_bytes() == (tmp_path / "theirs.beton").read_bytes()


def pillow(file):
    """int64 (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)


@pytest.mark.parametrize("workers", [1, 2, 64])
def test_jpeg_files_are_decoded_nearly_as_pillow_does(jpeg, workers):
    rows = np.arange(48)[::-1].copy()
    loader = FfcvLoader(jpeg, Order(size=48, batch_size=12, seed=1), rows=rows, workers=workers)
    differences = []
    for images, labels, index, _ in loader.epoch(0):
        assert images.dtype == torch.uint8 and images.shape == (12, 64, 64, 3)
        assert labels.tolist() == (rows[index] % 7).tolist()
        differences.append(np.abs(images.numpy() - np.stack([pillow(FILES[row]) for row in rows[index]])))
    assert len(differences) == 4
    # A wrong image, or colours in another order, would be 40 away on average.
    assert np.max(differences) <= 6 and np.mean(differences) <= 1.5


def test_jpeg_epochs_are_the_same_for_any_number_of_workers(jpeg):
    order = Order(size=48, batch_size=12, seed=1)
    loaders = [FfcvLoader(jpeg, order, workers=workers) for workers in (1, 2)]
    assert same(loaders[0].epoch(3), loaders[1].epoch(3)) == 4


def test_a_grey_jpeg_is_grey(jpeg):
    (batch,) = FfcvLoader(jpeg, Order(size=12, batch_size=12, seed=0), rows=np.arange(12) * 4).epoch(0)
    assert (batch.images == batch.images[..., :1]).all()


def test_nothing_else_changes(packed, jpeg):
    """In a process of its own: only there is FFCV imported for the first time."""
    code = (
        "import sys; sys.path.append(sys.argv[1]); import warnings; warnings.simplefilter('error')\n"
        "import pathlib, test_ffcv; test_ffcv.use_and_compare(*map(pathlib.Path, sys.argv[2:]))"
    )
    command = [sys.executable, "-c", code, Path(__file__).parent, packed.path, jpeg.path]
    tests = os.pathsep.join(str(Path(__file__).parents[1] / folder) for folder in ("", "support"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=packed.path, env=environment)
    assert done.returncode == 0 and not done.stdout and not done.stderr, done.stderr


def use_and_compare(*paths):
    """What the user has set, before and after all of it, and while an epoch is under way."""
    import numba

    from fastiseat.pipelines.stores.beton import Beton

    torch.set_num_threads(3)
    before = settings(numba)
    for path, kind in zip(paths, ("packed", "jpeg"), strict=True):
        beton = Beton.at(path)
        beton.check(name="mine", fingerprint=PRINT, kind=kind)
        loader = FfcvLoader(beton, Order(size=beton.info.samples, batch_size=8, seed=0))
        assert settings(numba) == before
        for _ in loader.epoch(0):
            assert settings(numba) == before
        next(loader.epoch(1))
        assert settings(numba) == before
    threads = []
    other = threading.Thread(target=lambda: threads.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert threads == [3]


def settings(numba):
    state = np.random.get_state()  # noqa: NPY002  # the global generator is meant
    return {
        "torch's threads": torch.get_num_threads(),
        "numba's threads": numba.get_num_threads(),
        "torch's generator": torch.get_rng_state().tolist(),
        "numpy's generator": (state[1].tolist(), state[2:]),
        "python's generator": random.getstate(),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "environment": dict(os.environ),
    }


def test_a_missing_ffcv_is_told(packed, monkeypatch):
    original = builtins.__import__

    def without(name, *rest, **options):
        if name.split(".")[0] == "ffcv":
            raise ModuleNotFoundError("No module named 'ffcv'", name="ffcv")
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        UserError,
        match=r"^--loader ffcv needs FFCV, which is not installed .*: pip install 'fastiseat\[ffcv\]' .*'ffcv'$",
    ):
        FfcvLoader(packed, Order(size=70, batch_size=4, seed=0))
