"""The order of the images and what is held out: pinned to literals, because a change would change every run."""

import hashlib
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.base import Batch, DataSet, Split, epoch_order, held_out

SEEDS = st.integers(0, 2**63 - 1)
LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=200).map(np.array)


@given(n=st.integers(0, 500), seed=SEEDS, epoch=st.integers(0, 1000))
def test_an_epoch_is_a_permutation(n, seed, epoch):
    order = epoch_order(n, seed=seed, epoch=epoch)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))
    assert np.array_equal(order, epoch_order(n, seed=seed, epoch=epoch))


@pytest.mark.parametrize(
    ("seed", "epoch", "order"),
    [
        (0, 0, [0, 2, 11, 9, 1, 8, 5, 4, 3, 10, 6, 7]),
        (0, 1, [5, 3, 7, 8, 11, 2, 4, 1, 10, 0, 6, 9]),
        (1, 0, [3, 5, 2, 9, 7, 10, 0, 8, 6, 11, 1, 4]),
        (2**63 - 1, 199, [10, 3, 8, 9, 5, 1, 6, 2, 11, 4, 7, 0]),
    ],
)
def test_the_order_never_changes(seed, epoch, order):
    assert epoch_order(12, seed=seed, epoch=epoch).tolist() == order


def test_the_order_of_a_whole_epoch_of_cifar_never_changes():
    order = epoch_order(50_000, seed=3, epoch=17).astype("<i8")
    assert hashlib.sha256(order.tobytes()).hexdigest()[:16] == "c716c51935c0e965"


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = [epoch_order(100, seed=seed, epoch=epoch) for seed in range(5) for epoch in range(5)]
    for one, other in permutations(orders, 2):
        assert (one == other).mean() < 0.1


def test_every_image_comes_up_everywhere():
    """Over many epochs the place of an image is uniform: its mean and spread are those of 0 … n-1."""
    places = np.array([np.argsort(epoch_order(20, seed=0, epoch=epoch)) for epoch in range(2000)])
    assert np.allclose(places.mean(0), 9.5, atol=0.6)
    assert np.allclose(places.std(0), np.arange(20).std(), atol=0.4)


@given(labels=LABELS, share=st.floats(0, 1, exclude_max=True), seed=SEEDS)
def test_what_is_held_out_is_the_share_of_each_class(labels, share, seed):
    mask = held_out(labels, share, seed=seed)
    assert mask.dtype == np.bool_
    for label in np.unique(labels):
        assert mask[labels == label].sum() == round(share * (labels == label).sum())


@given(labels=LABELS, seed=SEEDS)
def test_a_larger_share_holds_out_the_same_images_and_more(labels, seed):
    small, large = (held_out(labels, share, seed=seed) for share in (0.2, 0.6))
    assert not (small & ~large).any()


@pytest.mark.parametrize(
    ("seed", "chosen"), [(0, [2, 7, 12, 17, 25, 27, 32, 34]), (7, [6, 7, 9, 12, 15, 17, 24, 34])]
)
def test_what_is_held_out_never_changes(seed, chosen):
    assert np.flatnonzero(held_out(np.arange(40) % 4, 0.25, seed=seed))[:8].tolist() == chosen


def test_holding_out_draws_other_numbers_than_any_epoch():
    """Else the validation images would be the ones that come first in some epoch."""
    mask = held_out(np.zeros(1000, dtype=np.int64), 0.1, seed=0)
    for epoch in range(50):
        first = epoch_order(1000, seed=0, epoch=epoch)[:100]
        assert mask[first].sum() < 30


def split_of(labels):
    return Split(images=np.zeros((len(labels), 2, 2, 3), dtype=np.uint8), labels=np.array(labels, dtype=np.int64))


def test_a_batch_without_rows_is_gathered_already():
    batch = Batch(torch.zeros(2, 1, 1, 1), torch.arange(2), torch.arange(2))
    assert batch.gathered() is batch and batch.rows is None
    assert all(found is given for found, given in zip(batch.tensors, batch[:3], strict=True))


def test_rows_say_which_images_and_labels_the_samples_are():
    images, rows = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1), torch.tensor([3, 0, 3])
    batch = Batch(images, torch.arange(5) * 10, rows + 7, rows)
    assert len(batch.tensors) == 4 and batch.tensors[3] is rows
    own = batch.gathered()
    assert own.rows is None and own.index is batch.index
    assert own.labels.tolist() == [30, 0, 30]
    assert own.images.shape == (3, 1, 1, 1) and own.images.ravel().tolist() == [3, 0, 3]


def data_set(train, test):
    return DataSet(name="toy", num_classes=3, train=train, test=test)


def test_taking_samples_keeps_their_order():
    split = Split(images=np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1), labels=np.arange(5) * 10)
    taken = split.take(np.array([3, 0, 3]))
    assert taken.labels.tolist() == [30, 0, 30]
    assert taken.images.ravel().tolist() == [3, 0, 3]
    assert len(taken) == 3


@pytest.mark.parametrize("wrong", [-1, 3, 10])
def test_labels_out_of_range_are_refused(wrong):
    assert data_set(split_of([0, 1, 2]), split_of([2])).num_channels == 3
    with pytest.raises(UserError, match=f"toy: training label {wrong} is out of range: labels lie in 0 … 2"):
        data_set(split_of([0, wrong]), split_of([0]))
    with pytest.raises(UserError, match=f"toy: test label {wrong} is out of range"):
        data_set(split_of([0]), split_of([0, wrong]))


def test_as_many_labels_as_images():
    crooked = Split(images=np.zeros((2, 2, 2, 3), dtype=np.uint8), labels=np.array([0]))
    with pytest.raises(UserError, match="toy: 2 test images, 1 labels"):
        data_set(split_of([0]), crooked)


def test_a_fingerprint_sees_pixels_labels_shapes_and_splits():
    base = data_set(split_of([0, 1]), split_of([2]))
    pixel = split_of([0, 1])
    pixel.images[0, 0, 0, 0] = 1
    wide = Split(images=np.zeros((2, 1, 4, 3), dtype=np.uint8), labels=np.array([0, 1]))
    others = [
        data_set(pixel, split_of([2])),
        data_set(split_of([1, 0]), split_of([2])),
        data_set(split_of([0, 1]), split_of([1])),
        data_set(split_of([2]), split_of([0, 1])),
        data_set(wide, split_of([2])),
    ]
    prints = {data.fingerprint for data in (base, *others)}
    assert len(prints) == 6
    assert base.fingerprint == data_set(split_of([0, 1]), split_of([2])).fingerprint
