"""Which images a run sees: limits, the held-out part, augmentation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastiseat import UserError, recipe
from fastiseat.config import Data
from fastiseat.pipelines.protocol.base import Batch, balanced_subset
from fastiseat.run.data import load_run_data, network_batch


def loaded(**changed):
    return load_run_data(replace(recipe(), data=Data(**changed)))


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=80), size=st.integers(1, 80))
def test_a_subset_takes_its_classes_in_turns(labels, size) -> None:
    labels = np.array(labels, dtype=np.int64)
    chosen = balanced_subset(labels, size)
    assert len(chosen) == min(size, len(labels))
    assert (np.diff(chosen) > 0).all()
    taken = np.bincount(labels[chosen], minlength=5)
    available = np.bincount(labels, minlength=5)
    # A class with images left over has as many taken as any other, or one less.
    assert all(taken[c] >= taken.max() - 1 for c in range(5) if taken[c] < available[c])
    assert np.array_equal(chosen, balanced_subset(labels, size))


def test_limits_hold_and_are_the_same_for_every_seed() -> None:
    few = loaded(limit_train=200, limit_test=50)
    assert (len(few.training), len(few.test)) == (200, 50)
    assert set(np.bincount(few.training.labels)) == {20}
    other = load_run_data(replace(recipe(), data=Data(limit_train=200), run=replace(recipe().run, seed=5)))
    assert np.array_equal(few.training.images, other.training.images)


def test_a_limit_beyond_the_data_changes_nothing() -> None:
    assert len(loaded(limit_train=10**6).training) == len(loaded().training) == 1442


def test_the_held_out_part_comes_from_the_limited_training_images() -> None:
    data = loaded(limit_train=200, val_split=0.25)
    assert (len(data.training), len(data.selection), data.selection_name) == (150, 50, "val")
    assert len(data.test) == 355


def test_a_share_that_holds_out_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="holds out none"):
        loaded(val_split=0.001)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (
            {"limit_train": 1},
            r"limit_train=1, val_split=0.0: leaves 1 images to train on, all of class",
        ),
        (
            {"limit_test": 1},
            r"limit_test=1: leaves 1 images to test on, all of class '\d'; use more, of 10 classes",
        ),
    ],
)
def test_a_limit_that_leaves_one_class_is_refused(changed, complaint) -> None:
    with pytest.raises(UserError, match=complaint):
        loaded(**changed)


def test_a_limit_of_two_classes_is_taken() -> None:
    data = loaded(limit_train=2, limit_test=2)
    assert len(set(data.training.labels)) == len(set(data.test.labels)) == 2


def batch(n=32, side=8) -> Batch:
    images = torch.randint(256, (n, side, side, 3), dtype=torch.uint8)
    return Batch(images, torch.arange(n) % 10, torch.arange(100, 100 + n))


def test_without_augmentation_the_pixels_are_only_scaled() -> None:
    given = batch()
    images, labels = network_batch(given, Data(), seed=0, epoch=0, device=torch.device("cpu"))
    assert torch.equal(images, given.images.permute(0, 3, 1, 2).float() / 255)
    assert torch.equal(labels, given.labels)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_augmentation_is_drawn_from_seed_epoch_and_index() -> None:
    data, cpu, given = Data(flip=True, crop_padding=2), torch.device("cpu"), batch()
    first, _ = network_batch(given, data, seed=1, epoch=3, device=cpu)
    again, _ = network_batch(given, data, seed=1, epoch=3, device=cpu)
    assert torch.equal(first, again)
    for seed, epoch in ((2, 3), (1, 4)):
        other, _ = network_batch(given, data, seed=seed, epoch=epoch, device=cpu)
        assert not torch.equal(first, other)
    backwards, _ = network_batch(
        Batch(*(part.flip(0) for part in given.tensors)), data, seed=1, epoch=3, device=cpu
    )
    assert torch.equal(backwards.flip(0), first)


@pytest.mark.parametrize("augment", ["standard", "idbh-cifar10-weak"])
def test_rows_are_gathered_on_the_way_to_the_network(augment):
    data, whole = Data(flip=True, crop_padding=2, augment=augment), batch(side=32)
    rows = torch.tensor([3, 31, 3, 0])
    given = Batch(whole.images, whole.labels, rows + 100, rows)
    where = {"seed": 1, "epoch": 3, "device": torch.device("cpu")}
    found, expected = (network_batch(each, data, **where) for each in (given, given.gathered()))
    assert all(map(torch.equal, found, expected))
    assert found[1].tolist() == [3, 1, 3, 0]
