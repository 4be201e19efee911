"""Loaders are timed only where they yield the reference's batches."""

from dataclasses import replace

import pytest
import torch
from bench_case import CASE, CPU, network

from fastiseat.bench.loaders import epochs
from fastiseat.bench.loaders import suite as loaders
from fastiseat.bench.loaders.inputs import source
from fastiseat.bench.loaders.suite import LOADERS, Entry
from fastiseat.bench.steps.variants import VARIANTS
from fastiseat.errors import UserError
from fastiseat.pipelines.loaders.torch import TorchLoader

SETTINGS = {"rounds": 2, "seconds": 1e-4}
TORCH = {"torch": LOADERS["torch"]}


class Shifted(TorchLoader):
    """Labels that belong to other images."""

    def epoch(self, epoch, *, first=0):
        for batch in super().epoch(epoch, first=first):
            yield batch._replace(labels=batch.labels.roll(1))


@pytest.fixture
def digits():
    with source("digits", 60, None) as images:
        yield images


@pytest.mark.xdist_group("ffcv")
def test_every_loader_passes_on_packed_images_and_on_files():
    with source("tinyimagenet", 40, None) as images:
        assert images.files is not None
        rows = loaders.run(images, 20, CPU, entries=LOADERS, **SETTINGS)
    assert [(row["loader"], row["problem"]) for row in rows] == [(name, "") for name in LOADERS]
    assert all(row["images_per_second"] == 20 / row["median"] for row in rows)


def test_a_data_set_without_files_has_no_rows_for_decoders(digits):
    rows, made = loaders.prepare(digits, loaders.Order(size=60, batch_size=12, seed=0), CPU, LOADERS | TORCH)
    assert {row["loader"] for row in rows} == {"torch", "resident", "ffcv", "dali"}
    assert len(made) == 4


def test_a_wrong_loader_has_no_figure(digits):
    shifted = Entry(make=lambda images, order, device: Shifted(images.split, order))
    right, wrong = loaders.run(digits, 12, CPU, entries=TORCH | {"shifted": shifted}, **SETTINGS)
    assert right["images_per_second"] == 12 / right["median"]
    assert wrong == {"loader": "shifted", "problem": "wrong: the labels of batch 0 are not the reference's"}


def test_a_loader_whose_library_is_missing_has_no_figure(digits):
    def make(images, order, device):
        raise UserError("it needs a library")

    row = loaders.run(digits, 12, CPU, entries=TORCH | {"absent": Entry(make=make)}, **SETTINGS)[1]
    assert row == {"loader": "absent", "problem": "absent: it needs a library"}


def test_pixels_may_be_off_by_the_tolerance_only(digits):
    class Brighter(TorchLoader):
        def epoch(self, epoch, *, first=0):
            for batch in super().epoch(epoch, first=first):
                yield batch._replace(images=batch.images.clamp(max=250) + 5)

    exact = Entry(make=lambda images, order, device: Brighter(images.split, order))
    entries = {"exact": exact, "tolerant": replace(exact, tolerance=5)}
    rows, _ = loaders.prepare(digits, loaders.Order(size=60, batch_size=12, seed=0), CPU, entries)
    assert [row["problem"] for row in rows] == ["wrong: the images of batch 0 are not the reference's", ""]


def test_a_loader_goes_on_after_the_epoch(digits):
    (row,) = loaders.run(digits, 60, CPU, entries=TORCH, rounds=5, seconds=1e-4)
    assert row["median"] > 0


def test_an_epoch_is_held_against_one_fixed_batch(digits, monkeypatch):
    config = CASE.config()
    subject = VARIANTS["fastiseat-eager-full"].build(network(), config)
    seen = []
    honest = subject.step
    monkeypatch.setattr(subject, "step", lambda method, x, y: (seen.append(x), honest(method, x, y))[1])
    rows = epochs.run(subject, "at", digits, config, CPU, entries=TORCH, **SETTINGS)
    assert [row["loader"] for row in rows] == [epochs.FIXED, "torch"]
    assert rows[0]["overhead"] == 0
    assert rows[1]["overhead"] == rows[1]["median"] / rows[0]["median"] - 1
    assert len({tuple(x.flatten().tolist()) for x in seen}) > 2  # the loader's batches differ from step to step
    assert all(isinstance(x, torch.Tensor) and x.shape == (12, 1, 8, 8) for x in seen)
