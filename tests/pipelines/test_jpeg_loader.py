"""The reference loader of JPEG files: the packed pixels in the same order, and nothing left behind."""

import numpy as np
import pytest
from tiny_loaders import (
    assert_same_batches,
    assert_threads_end,
    by_pillow,
    damaged,
    encoded,
    jpeg_files,
    num_threads,
    order_of,
    smooth_jpeg,
)

from fastiseat.errors import UserError
from fastiseat.pipelines.loaders.jpeg import JpegLoader
from fastiseat.pipelines.loaders.torch import TorchLoader

FILES = jpeg_files()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_batches_are_those_of_the_packed_pixels(world_size, workers):
    for rank in range(world_size):
        order = order_of(30, world_size=world_size, rank=rank)
        loader, reference = (
            JpegLoader(encoded(FILES), order, workers=workers),
            TorchLoader(by_pillow(FILES), order),
        )
        assert len(loader) == len(reference) == 3
        for epoch, first in [(0, 0), (1, 0), (7, 2)]:
            assert_same_batches(loader.epoch(epoch, first=first), reference.epoch(epoch, first=first))


def test_a_subset_of_the_rows():
    rows = np.array([3, 29, 4, 10, 11, 12, 0, 7])
    order = order_of(8, batch_size=3)
    loader = JpegLoader(encoded(FILES), order, rows=rows)
    assert_same_batches(loader.epoch(0), TorchLoader(by_pillow(FILES).take(rows), order).epoch(0))


def test_no_steps_are_left():
    assert list(JpegLoader(encoded(FILES), order_of(30)).epoch(0, first=3)) == []


def test_an_abandoned_iterator_leaves_no_threads():
    before = num_threads()
    batches = JpegLoader(encoded(FILES), order_of(30, batch_size=2)).epoch(0)
    next(batches)
    assert num_threads() > before
    del batches
    assert_threads_end(before)


def test_a_damaged_file_is_named():
    files = [*FILES[:17], damaged(FILES[17]), *FILES[18:]]
    before = num_threads()
    with pytest.raises(UserError, match=r"^JPEG file 17 of the training images: cannot be decoded \(.*\); .*$"):
        list(JpegLoader(encoded(files), order_of(30, batch_size=30)).epoch(0))
    assert_threads_end(before)


def test_a_file_of_another_size_is_named():
    data = encoded([smooth_jpeg(0), smooth_jpeg(1, size=(25, 16))])
    with pytest.raises(UserError, match=r"JPEG file 1 of .*: 25×16, not 24×16; prepare it again with --force"):
        list(JpegLoader(data, order_of(2, batch_size=2)).epoch(0))
