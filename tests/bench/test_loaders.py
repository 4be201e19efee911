"""Loaders are timed only where they yield the reference's batches."""

import pytest
import torch
from bench_case import CASE, CPU

from fastiseat.bench import epochs, loaders
from fastiseat.bench.inputs import training_split
from fastiseat.bench.loaders import LOADERS
from fastiseat.bench.variants import VARIANTS
from fastiseat.pipelines.torch import TorchLoader

SETTINGS = {"rounds": 2, "seconds": 1e-4}


class Shifted(TorchLoader):
    """Labels that belong to other images."""

    def epoch(self, epoch, *, first=0):
        for batch in super().epoch(epoch, first=first):
            yield batch._replace(labels=batch.labels.roll(1))


@pytest.fixture
def split():
    return training_split("digits", 60, None)


def test_each_loader_has_a_row_and_a_wrong_one_no_figure(split):
    both = {"torch": LOADERS["torch"], "shifted": lambda split, order, device: Shifted(split, order)}
    right, wrong = loaders.run(split, 12, CPU, loaders=both, **SETTINGS)
    assert right["images_per_second"] == 12 / right["median"]
    assert wrong == {"loader": "shifted", "problem": "wrong: the labels of batch 0 are not the reference's"}


def test_a_loader_goes_on_after_the_epoch(split):
    assert len(split) == 60
    (row,) = loaders.run(split, 60, CPU, loaders={"torch": LOADERS["torch"]}, rounds=5, seconds=1e-4)
    assert row["median"] > 0


def test_an_epoch_is_held_against_one_fixed_batch(split, monkeypatch):
    config = CASE.config()
    from bench_case import network

    subject = VARIANTS["fastiseat-eager-full"].build(network(), config)
    seen = []
    honest = subject.step
    monkeypatch.setattr(subject, "step", lambda method, x, y: (seen.append(x), honest(method, x, y))[1])
    rows = epochs.run(subject, "at", split, config, CPU, loaders={"torch": LOADERS["torch"]}, **SETTINGS)
    assert [row["loader"] for row in rows] == [epochs.FIXED, "torch"]
    assert rows[0]["overhead"] == 0
    assert rows[1]["overhead"] == rows[1]["median"] / rows[0]["median"] - 1
    assert len({tuple(x.flatten().tolist()) for x in seen}) > 2  # the loader's batches differ from step to step
    assert all(isinstance(x, torch.Tensor) and x.shape == (12, 1, 8, 8) for x in seen)
