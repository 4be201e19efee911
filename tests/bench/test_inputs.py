"""What is trained on while it is timed."""

import pytest
import torch
from bench_case import CPU

from fastiseat.bench.inputs import batch, images_of, training_split
from fastiseat.errors import UserError
from fastiseat.pipelines.data import datasets


def test_random_images_are_no_zeros_and_the_same_each_time():
    x, y = batch("cifar10", 64, None, CPU)
    assert x.shape == (64, 3, 32, 32)
    assert 0.4 < float(x.mean()) < 0.6 and 0 <= float(x.min()) < float(x.max()) <= 1
    assert len(y.unique()) == 10
    again, _ = batch("cifar10", 64, None, CPU)
    assert torch.equal(x, again)


def test_real_images_come_from_the_folder(tmp_path):
    x, y = batch("digits", 32, tmp_path, CPU)
    train = datasets.load("digits").train
    assert torch.equal(x[:, 0], torch.from_numpy(train.images[:32, :, :, 0]).float() / 255)
    assert y.tolist() == train.labels[:32].tolist()


def test_the_digits_are_as_described():
    data = datasets.load("digits")
    assert (len(data.train), len(data.test)) == images_of("digits").num_images == (1442, 355)
    assert data.train.images.shape[1:] == (8, 8, 1)


def test_a_split_has_the_data_set_s_shape_and_the_size_asked_for():
    split = training_split("tinyimagenet", 7, None)
    assert split.images.shape == (7, 64, 64, 3)
    assert len(training_split("digits", 10_000, None)) == images_of("digits").num_images[0]


def test_a_data_set_of_unknown_shape_is_refused():
    with pytest.raises(UserError, match="shapes of digits, cifar10"):
        images_of("npz:x.npz")


def test_more_real_images_than_there_are_are_refused(tmp_path):
    with pytest.raises(UserError, match="batch_size=5000: digits has 1442 training images; use at most that"):
        batch("digits", 5000, tmp_path, CPU)
