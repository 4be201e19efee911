"""Prefetching: the loader's own batches, errors in their turn, and no thread that outlives its epoch."""

import threading

import pytest
import torch
from tiny_loaders import CPU, assert_same_batches, assert_threads_end, num_threads, order_of, packed

from fastiseat.pipelines.loaders.prefetch import Prefetched
from fastiseat.pipelines.loaders.torch import TorchLoader
from fastiseat.pipelines.protocol.base import Batch


def batch_of(number):
    value = torch.tensor([number])
    return Batch(torch.full((1, 2, 2, 3), number, dtype=torch.uint8), value, value)


class Fake:
    """Ten batches that tell their number; notes how many were fetched, and whether it was closed."""

    def __init__(self, fail_at=None):
        self.fail_at, self.fetched, self.closed = fail_at, 0, False

    def __len__(self):
        return 10

    def epoch(self, epoch, *, first=0):
        try:
            for number in range(first, 10):
                if number == self.fail_at:
                    raise RuntimeError(f"batch {number} is lost")
                self.fetched += 1
                yield batch_of(number)
        finally:
            self.closed = True


def settled(condition):
    """Whether ``condition`` comes to hold while the thread works."""
    ticks = threading.Event()
    return any(condition() or ticks.wait(0.01) for _ in range(500))


@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_are_the_loaders(world_size):
    loader = TorchLoader(packed(), order_of(30, batch_size=4, world_size=world_size, rank=world_size - 1))
    prefetched = Prefetched(loader, CPU)
    assert len(prefetched) == len(loader) == 7
    for epoch, first in [(0, 0), (1, 0), (7, 5), (7, 6)]:
        assert_same_batches(prefetched.epoch(epoch, first=first), loader.epoch(epoch, first=first))
    assert list(prefetched.epoch(0, first=7)) == []


def test_batches_are_fetched_ahead_and_no_further():
    fake = Fake()
    batches = Prefetched(fake, CPU).epoch(0)
    assert fake.fetched == 0
    next(batches)
    assert settled(lambda: fake.fetched == 3)
    threading.Event().wait(0.1)
    assert fake.fetched == 3
    batches.close()
    assert fake.closed


@pytest.mark.parametrize("fail_at", [0, 1, 5, 9])
def test_an_error_comes_in_its_turn(fail_at):
    before, fake = num_threads(), Fake(fail_at)
    batches = Prefetched(fake, CPU).epoch(0)
    assert [int(next(batches).index) for _ in range(fail_at)] == list(range(fail_at))
    with pytest.raises(RuntimeError, match=f"^batch {fail_at} is lost$"):
        next(batches)
    assert_threads_end(before)
    assert fake.closed


@pytest.mark.parametrize("steps", [0, 1, 9, 10])
def test_no_thread_outlives_its_epoch(steps):
    before, fake = num_threads(), Fake()
    batches = Prefetched(fake, CPU).epoch(0)
    for _ in range(steps):
        next(batches)
    assert num_threads() == before + (steps > 0)
    del batches
    assert_threads_end(before)
    assert fake.closed == (steps > 0)


def test_a_consumers_error_ends_the_thread():
    before, fake = num_threads(), Fake()

    def consume():
        for _ in Prefetched(fake, CPU).epoch(0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert_threads_end(before)
    assert fake.closed


class Rows:
    """Batches of rows of one tensor."""

    def __init__(self, device):
        self.images = torch.arange(48, dtype=torch.uint8, device=device).view(12, 2, 2, 1)
        self.labels, self.rows = torch.arange(12, device=device), torch.randperm(12, device=device)

    def __len__(self):
        return 6

    def epoch(self, epoch, *, first=0):
        for rows in self.rows.view(6, 2)[first:]:
            yield Batch(self.images, self.labels, rows + 100, rows)


def test_rows_stay_with_what_lies_there():
    loader = Rows(CPU)
    for found, batch in zip(Prefetched(loader, CPU).epoch(0), loader.epoch(0), strict=True):
        assert found.images is loader.images and torch.equal(found.rows, batch.rows)


def test_what_has_to_travel_is_gathered():
    found = list(Prefetched(Rows(CPU), torch.device("meta")).epoch(0))
    assert [(batch.images.shape, batch.rows) for batch in found] == [((2, 2, 2, 1), None)] * 6


@pytest.mark.gpu
def test_on_a_gpu_what_has_to_travel_is_gathered():
    cuda = torch.device("cuda", torch.cuda.current_device())
    for loader, gathered in ((Rows(CPU), True), (Rows(cuda), False)):
        for found, batch in zip(Prefetched(loader, cuda).epoch(0), loader.epoch(0), strict=True):
            assert {tensor.device for tensor in found.tensors} == {cuda} and (found.rows is None) == gathered
            assert torch.equal(found.gathered().images.cpu(), batch.gathered().images.cpu())


@pytest.mark.gpu
def test_on_a_gpu_batches_are_the_loaders():
    """More steps than slots, all batches kept, and work on the consumer's stream that lags behind."""
    cuda = torch.device("cuda", torch.cuda.current_device())
    loader = TorchLoader(packed(64, side=64), order_of(64, batch_size=4))
    kept = []
    for batch in Prefetched(loader, cuda).epoch(0):
        torch.cuda._sleep(5_000_000)
        kept.append(Batch(*(tensor + 0 for tensor in batch.tensors)))
        kept.append(batch)
    assert {tensor.device for batch in kept for tensor in batch.tensors} == {cuda}
    on_cpu = [Batch(*(tensor.cpu() for tensor in batch.tensors)) for batch in kept]
    assert_same_batches(on_cpu[0::2], loader.epoch(0))
    assert_same_batches(on_cpu[1::2], loader.epoch(0))


@pytest.mark.gpu
def test_on_a_gpu_a_batch_belongs_to_the_consumers_stream():
    """Memory that the consumer gives back while its stream still reads it is not written before."""
    cuda = torch.device("cuda", torch.cuda.current_device())
    loader = TorchLoader(packed(64, side=64), order_of(64, batch_size=4))
    sums = []
    with torch.cuda.stream(torch.cuda.Stream()):
        for batch in Prefetched(loader, cuda).epoch(0):
            torch.cuda._sleep(20_000_000)
            sums.append(batch.images.sum(dtype=torch.int64))
            del batch
        found = torch.stack(sums).tolist()
    assert found == [int(batch.images.sum(dtype=torch.int64)) for batch in loader.epoch(0)]


@pytest.mark.gpu
def test_on_a_gpu_what_lies_there_passes():
    cuda = torch.device("cuda", torch.cuda.current_device())

    class There(Fake):
        def epoch(self, epoch, *, first=0):
            self.made = [
                Batch(*(tensor.to(cuda) for tensor in batch.tensors))
                for batch in super().epoch(epoch, first=first)
            ]
            yield from self.made

    there = There()
    assert all(found is made for found, made in zip(Prefetched(there, cuda).epoch(0), there.made, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("fail_at", [0, 1, 5])
def test_on_a_gpu_an_error_comes_in_its_turn(fail_at):
    with pytest.raises(RuntimeError, match=f"^batch {fail_at} is lost$"):
        list(Prefetched(Fake(fail_at), torch.device("cuda")).epoch(0))
