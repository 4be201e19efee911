"""The reference loader: the order of ``epoch_order`` in full batches."""

import numpy as np
import pytest
import torch

from fastiseat.pipelines.loaders.torch import TorchLoader
from fastiseat.pipelines.protocol.base import Split, epoch_order
from fastiseat.pipelines.protocol.order import Order


def split(n=23):
    """Images and labels that tell their index."""
    images = np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1) * np.ones((1, 4, 3, 2), dtype=np.uint8)
    return Split(images=images, labels=np.arange(n) * 7)


def loader_of(data, **order):
    return TorchLoader(data, Order(size=len(data), **order))


def test_batches_follow_the_order_and_belong_together():
    loader = loader_of(split(), batch_size=5, seed=3)
    batches = list(loader.epoch(2))
    index = torch.cat([batch.index for batch in batches])
    assert np.array_equal(index, epoch_order(23, seed=3, epoch=2)[:20])
    for batch in batches:
        assert batch.images.shape == (5, 4, 3, 2)
        assert (batch.images.dtype, batch.labels.dtype, batch.index.dtype) == (
            torch.uint8,
            torch.int64,
            torch.int64,
        )
        assert batch.images[:, 0, 0, 0].tolist() == batch.index.tolist()
        assert batch.labels.tolist() == (7 * batch.index).tolist()


@pytest.mark.parametrize(("batch_size", "batches"), [(1, 23), (5, 4), (11, 2), (12, 1), (23, 1)])
def test_the_last_partial_batch_is_dropped(batch_size, batches):
    loader = loader_of(split(), batch_size=batch_size, seed=0)
    sizes = [len(batch.labels) for batch in loader.epoch(0)]
    assert sizes == [batch_size] * batches
    assert len(loader) == batches


def test_no_image_is_always_the_one_that_is_dropped():
    loader = loader_of(split(), batch_size=11, seed=0)
    seen = {int(index) for epoch in range(30) for batch in loader.epoch(epoch) for index in batch.index}
    assert seen == set(range(23))


def test_epochs_are_independent_of_each_other():
    """A resumed run asks for epoch 5 first."""
    loader = loader_of(split(), batch_size=5, seed=0)
    alone = [batch.index.tolist() for batch in loader.epoch(5)]
    for epoch in range(5):
        list(loader.epoch(epoch))
    assert [batch.index.tolist() for batch in loader.epoch(5)] == alone


def test_a_batch_is_a_copy():
    data = split()
    for batch in loader_of(data, batch_size=23, seed=0).epoch(0):
        batch.images.zero_()
        batch.labels.zero_()
    assert np.array_equal(data.images, split().images)
    assert np.array_equal(data.labels, split().labels)
