"""Which samples fall to which step and rank."""

import numpy as np
import pytest

from fastiseat.errors import UserError
from fastiseat.pipelines.base import epoch_order
from fastiseat.pipelines.order import Order


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
