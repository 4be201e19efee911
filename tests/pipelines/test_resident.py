"""The resident loader: the reference's batches, told by rows of memory of its own."""

import numpy as np
import pytest
import torch
from devices import DEVICES
from tiny_loaders import packed

from fastiseat.pipelines.loaders import resident
from fastiseat.pipelines.loaders.resident import ResidentLoader, resident_bytes
from fastiseat.pipelines.loaders.torch import TorchLoader
from fastiseat.pipelines.protocol.order import Order


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_the_reference_s(monkeypatch, device, channels):
    monkeypatch.setattr(resident, "_COPIED_AT_ONCE", 7)
    data, order = packed(30, channels=channels), Order(size=30, batch_size=4, seed=3)
    loader = ResidentLoader(data, order, device=torch.device(device))
    assert len(loader) == 7
    for epoch, first in ((0, 0), (5, 3)):
        pairs = zip(
            loader.epoch(epoch, first=first), TorchLoader(data, order).epoch(epoch, first=first), strict=True
        )
        for found, expected in pairs:
            assert {part.device.type for part in found.tensors} == {device}
            for ours, theirs in zip(found.gathered().tensors, expected.tensors, strict=True):
                assert torch.equal(ours.cpu(), theirs) and ours.dtype == theirs.dtype


def test_it_needs_the_split_no_longer():
    data, order = packed(30), Order(size=30, batch_size=30, seed=0)
    expected = next(TorchLoader(data, order).epoch(0))
    loader = ResidentLoader(data, order, device=torch.device("cpu"))
    data.images[:] = 0
    data.labels[:] = 0
    batch = next(loader.epoch(0)).gathered()
    assert torch.equal(batch.images, expected.images)
    batch.images.zero_()
    assert torch.equal(next(loader.epoch(0)).gathered().images, expected.images)


@pytest.mark.parametrize("device", DEVICES)
def test_images_and_labels_lie_where_they_lay_in_every_step(device):
    data, order = packed(30), Order(size=30, batch_size=4, seed=3)
    loader = ResidentLoader(data, order, device=torch.device(device))
    batches = [batch for epoch in range(3) for batch in loader.epoch(epoch)]
    assert len({(batch.images.data_ptr(), batch.labels.data_ptr()) for batch in batches}) == 1
    assert torch.equal(batches[0].images.cpu(), torch.from_numpy(data.images))
    for batch in batches:
        assert torch.equal(batch.rows, batch.index) and batch.rows.is_contiguous()


def test_bytes_are_those_of_images_and_labels():
    assert resident_bytes(packed(30, side=8, channels=3)) == 30 * (8 * 8 * 3 + 8)


def test_a_mapped_split_can_be_read_only(tmp_path):
    data = packed(10)
    np.save(tmp_path / "images.npy", data.images)
    mapped = type(data)(images=np.load(tmp_path / "images.npy", mmap_mode="r"), labels=data.labels)
    loader = ResidentLoader(mapped, Order(size=10, batch_size=10, seed=0), device=torch.device("cpu"))
    assert next(loader.epoch(0)).gathered().images.shape == (10, 8, 8, 3)
