"""The bundled digits: what a first run trains on, so never another split or other pixels."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fastiseat.errors import UserError
from fastiseat.pipelines.data import datasets


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def test_sizes_and_types(digits):
    assert (len(digits.train), len(digits.test)) == (1442, 355)
    assert (digits.num_classes, digits.num_channels) == (10, 1)
    for split in (digits.train, digits.test):
        assert split.images.shape == (len(split), 8, 8, 1)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int64)
        assert (split.images.min(), split.images.max()) == (0, 255)
        assert set(split.labels) == set(range(10))


def test_the_grey_levels_are_spread_evenly(digits):
    levels = np.unique(digits.train.images)
    assert np.array_equal(levels, np.rint(np.arange(17) * 255 / 16))


def in_bytes(images, labels):
    return [image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True)]


def test_the_split_is_stratified_and_loses_no_image(digits):
    for label in range(10):
        train, test = ((split.labels == label).sum() for split in (digits.train, digits.test))
        assert test == (train + test) // 5
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * 255 / 16).astype(np.uint8)
    found = [pair for split in (digits.train, digits.test) for pair in in_bytes(split.images, split.labels)]
    assert sorted(found) == sorted(in_bytes(pixels, labels))


def test_pixels_and_split_never_change(digits):
    assert digits.fingerprint == "a1dcaa92acd8d9fb"
    assert digits.train.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


@pytest.mark.parametrize("name", ["digit", "Digits", "DIGITS"])
def test_a_misspelt_data_set_is_answered_with_the_right_one(name):
    with pytest.raises(UserError, match=f"unknown data set '{name}'; did you mean digits"):
        datasets.load(name)
