"""Own and extra data in every batch: which samples, in which order, at any step and over any number of ranks."""

import itertools

import numpy as np
import pytest
import torch
from tiny_loaders import CPU, assert_same_batches, assert_threads_end, encoded, jpeg_files, num_threads
from tiny_releases import pixels

from fastiseat.errors import UserError
from fastiseat.kernels.augment.reference import draws
from fastiseat.pipelines.loaders.jpeg import JpegLoader
from fastiseat.pipelines.loaders.mix import EXTRA_INDEX, MixedLoader, extra_batch_size
from fastiseat.pipelines.loaders.prefetch import Prefetched
from fastiseat.pipelines.loaders.resident import ResidentLoader
from fastiseat.pipelines.loaders.torch import TorchLoader
from fastiseat.pipelines.protocol.base import Batch, Split
from fastiseat.pipelines.protocol.order import Order

OWN, EXTRA = (
    Split(images=pixels(n, 4, seed=n), labels=np.arange(n, dtype=np.int64) * factor)
    for n, factor in ((30, 7), (100, 11))
)


def loader_of(split, batch_size, size=None, stream=0, **ranks):
    size = size or len(split)
    return TorchLoader(split, Order(size=size, batch_size=batch_size, seed=3, stream=stream, **ranks))


def mixed(own_batch=4, extra_batch=8, size=None, **ranks):
    own = loader_of(OWN, own_batch, **ranks)
    return MixedLoader(own, loader_of(EXTRA, extra_batch, size=size, stream=1, **ranks))


def extra_index(loader, epoch, own_batch=4, first=0):
    """Places in the extra data, one row a batch."""
    return np.stack([batch.index[own_batch:] - EXTRA_INDEX for batch in loader.epoch(epoch, first=first)])


def test_a_batch_is_an_own_one_followed_by_an_extra_one():
    loader = mixed()
    assert len(loader) == 7
    batches = list(loader.epoch(2))
    assert len(batches) == 7
    for batch, own, extra in zip(batches, loader.own.epoch(2), loader.extra.epoch(2), strict=False):
        assert batch.images.shape == (12, 4, 4, 3) and batch.images.dtype == torch.uint8
        assert batch.labels.dtype == batch.index.dtype == torch.int64
        assert torch.equal(batch.images, torch.cat([own.images, extra.images]))
        assert torch.equal(batch.labels, torch.cat([own.labels, extra.labels]))
        assert torch.equal(batch.index[:4], own.index)
        assert torch.equal(batch.index[4:], extra.index + EXTRA_INDEX)
        place = extra.index.numpy()
        assert np.array_equal(batch.images[4:], EXTRA.images[place])
        assert np.array_equal(batch.labels[4:], EXTRA.labels[place])


def test_the_own_samples_are_those_of_a_run_without_extra_data():
    for batch, alone in zip(mixed().epoch(5), loader_of(OWN, 4).epoch(5), strict=True):
        for tensor, expected in zip(batch.tensors, alone.tensors, strict=True):
            assert torch.equal(tensor[:4], expected)


def test_more_extra_data_than_an_epoch_takes_is_shuffled_anew_each_epoch():
    loader = mixed()
    assert loader.passes == 1
    epochs = [extra_index(loader, epoch) for epoch in range(30)]
    assert all(len(np.unique(places)) == 7 * 8 for places in epochs)
    assert not any(np.array_equal(one, other) for one, other in itertools.combinations(epochs, 2))
    assert set(np.concatenate(epochs).ravel()) == set(range(100))


@pytest.mark.parametrize(
    ("size", "passes"), [(8, 7), (15, 7), (16, 4), (24, 3), (30, 3), (48, 2), (56, 1), (64, 1)]
)
def test_less_extra_data_is_passed_over_as_often_as_it_takes(size, passes):
    loader = mixed(size=size)
    assert loader.passes == passes
    order = loader.extra.order
    for epoch in (0, 1, 4):
        numbers = range(epoch * passes, (epoch + 1) * passes)
        assert np.array_equal(
            extra_index(loader, epoch), np.concatenate([order.epoch(number) for number in numbers])[:7]
        )


def test_no_pass_repeats_an_order():
    loader = mixed(size=16)
    passes = [
        tuple(places[first : first + 2].ravel())
        for places in (extra_index(loader, epoch) for epoch in range(5))
        for first in (0, 2, 4)
    ]
    assert len(set(passes)) == 15


@pytest.mark.parametrize("size", [8, 16, 30, 56, 100])
@pytest.mark.parametrize("first", range(7))
def test_an_epoch_continues_at_any_step(size, first):
    loader = mixed(size=size)
    assert_same_batches(loader.epoch(3, first=first), list(loader.epoch(3))[first:])


@pytest.mark.parametrize("size", [8, 56, 100])
def test_nothing_is_left_after_the_last_step(size):
    assert list(mixed(size=size).epoch(3, first=7)) == []


@pytest.mark.parametrize("size", [16, 100])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_ranks_together_take_the_batches_of_one_process(world_size, size):
    whole = mixed(size=size).epoch(6)
    ranks = [mixed(size=size, rank=rank, world_size=world_size).epoch(6) for rank in range(world_size)]
    own = 4 // world_size
    for batch, *shares in zip(whole, *ranks, strict=True):
        for tensor, *parts in zip(batch.tensors, *(share.tensors for share in shares), strict=True):
            assert all(len(part) == 12 // world_size for part in parts)
            assert torch.equal(
                tensor, torch.cat([*(part[:own] for part in parts), *(part[own:] for part in parts)])
            )


def test_an_extra_samples_augmentation_is_drawn_apart_from_any_own_ones():
    index = torch.arange(2000)
    own, extra = (torch.stack(draws(places, seed=1, epoch=2, pad=4)) for places in (index, index + EXTRA_INDEX))
    assert 0.45 < (own[0] == extra[0]).float().mean() < 0.55
    assert (own[1:] == extra[1:]).float().mean() < 0.2


class Resident:
    """A loader that yields what an iterator without ``close`` does, its batches made beforehand."""

    def __init__(self, split, batch_size):
        self.loader = loader_of(split, batch_size)

    def __len__(self):
        return len(self.loader)

    def epoch(self, epoch, *, first=0):
        return iter(list(self.loader.epoch(epoch, first=first)))


def test_any_loader_mixes_with_any():
    files = encoded(jpeg_files(24))
    split = Split(images=pixels(24, 1).repeat(16, 1).repeat(24, 2), labels=np.arange(24))
    jpeg = JpegLoader(files, Order(size=24, batch_size=4, seed=3))
    resident = ResidentLoader(split, Order(size=24, batch_size=4, seed=3), device=CPU)
    loaders = [
        jpeg,
        resident,
        Prefetched(resident, CPU),
        Prefetched(jpeg, CPU),
        loader_of(split, 4),
        Resident(split, 4),
        Prefetched(Resident(split, 4), CPU),
    ]
    for own, extra in itertools.product(loaders, repeat=2):
        joined = MixedLoader(own, extra)
        assert_same_batches(Prefetched(joined, CPU).epoch(1, first=3), joined.epoch(1, first=3))
        batch, parts = next(joined.epoch(1)), [next(part.epoch(1)).gathered() for part in (own, extra)]
        assert batch.rows is None
        assert torch.equal(batch.images, torch.cat([part.images for part in parts]))


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_threads_of_both_end_with_an_abandoned_epoch(taken):
    before = num_threads()
    own, extra = (
        Prefetched(JpegLoader(encoded(jpeg_files(n)), Order(size=n, batch_size=3, seed=0)), CPU) for n in (24, 6)
    )
    batches = MixedLoader(own, extra).epoch(0)
    for _ in range(taken):
        next(batches)
    batches.close()
    assert_threads_end(before)


class Noted:
    """Batches of one sample; notes which epochs are open, and fails where it is told to."""

    def __init__(self, steps, fail_at=None):
        self.steps, self.fail_at, self.open = steps, fail_at, []

    def __len__(self):
        return self.steps

    def epoch(self, epoch, *, first=0):
        self.open.append(epoch)
        try:
            for step in range(first, self.steps):
                if step == self.fail_at:
                    raise UserError(f"batch {step} is lost")
                number = torch.tensor([step])
                yield Batch(torch.zeros(1, 2, 2, 3, dtype=torch.uint8), number, number)
        finally:
            self.open.remove(epoch)


@pytest.mark.parametrize(("own", "extra"), [(5, 5), (5, 2), (5, 9)])
def test_both_are_closed_whenever_the_iterator_is(own, extra):
    own, extra = Noted(own), Noted(extra)
    batches = MixedLoader(own, extra).epoch(1)
    for _ in range(3):
        next(batches)
        assert len(own.open) == len(extra.open) == 1
    batches.close()
    assert not own.open and not extra.open
    assert len(list(MixedLoader(own, extra).epoch(1))) == 5
    assert not own.open and not extra.open


@pytest.mark.parametrize(("own_fails", "extra_fails"), [(3, None), (None, 1)])
def test_what_either_raises_reaches_the_consumer(own_fails, extra_fails):
    own, extra = Noted(5, own_fails), Noted(2 if extra_fails else 5, extra_fails)
    with pytest.raises(UserError, match="is lost"):
        list(MixedLoader(own, extra).epoch(0))
    assert not own.open and not extra.open


@pytest.mark.parametrize(
    ("batch_size", "ratio", "extra"),
    [
        (128, 0.5, 128),
        (128, 0.7, 299),
        (128, 0.3, 55),
        (128, 0.25, 43),
        (1, 0.6, 2),  # 1.5, which floating point puts below
        (3, 0.7, 7),
        (128, 0.004, 1),
        (512, 0.8, 2048),
    ],
)
def test_the_size_of_an_extra_batch(batch_size, ratio, extra):
    assert extra_batch_size(batch_size, ratio) == extra


@pytest.mark.parametrize("ratio", [0, 1, 0.0, 1.0, -0.5, 1.5, 50, float("nan"), float("inf")])
def test_a_ratio_that_is_no_share_is_refused(ratio):
    with pytest.raises(
        UserError, match=f"extra_ratio={ratio}: the extra data's share of a batch lies between 0 and 1"
    ):
        extra_batch_size(128, ratio)


def test_a_ratio_that_adds_nothing_is_refused():
    with pytest.raises(UserError, match=r"extra_ratio=0\.003: less than half an extra sample would join the 128"):
        extra_batch_size(128, 0.003)
