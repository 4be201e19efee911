"""Which samples fall to which step and rank."""

from itertools import combinations

import numpy as np
import pytest

from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.base import balanced_subset, epoch_order, held_out
from fastiseat.pipelines.protocol.order import Order


def test_a_single_process_takes_the_permutation_in_full_batches():
    order = Order(size=23, batch_size=5, seed=3)
    assert len(order) == 4
    assert np.array_equal(order.epoch(2).ravel(), epoch_order(23, seed=3, epoch=2)[:20])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_ranks_together_take_the_batches_of_one_process_without_overlap(world_size):
    whole = Order(size=103, batch_size=8, seed=1).epoch(6)
    shares = [Order(size=103, batch_size=8, seed=1, rank=r, world_size=world_size) for r in range(world_size)]
    assert {share.share for share in shares} == {8 // world_size}
    assert np.array_equal(np.concatenate([share.epoch(6) for share in shares], axis=1), whole)


@pytest.mark.parametrize("first", [0, 1, 11, 12])
def test_an_epoch_continues_at_any_step(first):
    order = Order(size=103, batch_size=8, seed=1, rank=1, world_size=2)
    assert np.array_equal(order.epoch(6, first=first), order.epoch(6)[first:])


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match="batch_size=24: there are 23 training images; use at most that"):
        Order(size=23, batch_size=24, seed=0)


def test_a_batch_that_the_ranks_cannot_share_is_refused():
    with pytest.raises(UserError, match="batch_size=10 over 4 processes: it must be a multiple of their number"):
        Order(size=23, batch_size=10, seed=0, world_size=4)


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_outside_of_the_world_is_refused(rank):
    with pytest.raises(UserError, match=f"rank={rank}: 2 processes have ranks 0 … 1"):
        Order(size=23, batch_size=10, seed=0, rank=rank, world_size=2)


def test_the_first_stream_is_the_order_of_a_run_with_one_data_set():
    order = Order(size=12, batch_size=12, seed=1, stream=0)
    assert order == Order(size=12, batch_size=12, seed=1)
    assert order.epoch(0).ravel().tolist() == [3, 5, 2, 9, 7, 10, 0, 8, 6, 11, 1, 4]


def test_the_order_of_another_stream_never_changes():
    order = Order(size=12, batch_size=12, seed=1, stream=1)
    assert order.epoch(0).ravel().tolist() == [8, 0, 3, 4, 11, 1, 9, 7, 6, 10, 5, 2]


def test_streams_are_shuffled_by_draws_of_their_own():
    orders = [
        Order(size=100, batch_size=100, seed=0, stream=stream).epoch(epoch).ravel()
        for stream in (0, 1, 2, 2**31 - 1)
        for epoch in (0, 1, 2, 2**32 - 1)
    ]
    for one, other in combinations(orders, 2):
        assert (one == other).mean() < 0.1


def test_no_stream_draws_what_chooses_the_held_out_or_a_subset():
    """Their counters lie right above those of the last epoch of the last stream."""
    labels = np.zeros(1000, dtype=np.int64)
    last = Order(size=1000, batch_size=100, seed=0, stream=2**31 - 1).epoch(2**32 - 1)[0, :]
    assert held_out(labels, 0.1, seed=0)[last].sum() < 30
    assert np.isin(last, balanced_subset(labels, 100)).sum() < 30
