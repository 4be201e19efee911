"""What a batch goes through on its way to the network: the kernels' functions with a run's settings."""

from dataclasses import replace

import pytest
import torch
from devices import DEVICES

from fastiseat.config import Data
from fastiseat.errors import UserError
from fastiseat.kernels import augment, idbh
from fastiseat.kernels.core import dispatch
from fastiseat.pipelines.protocol.augmentation import Augmentation

INDEX = torch.tensor([5, 2**33, 7, 0, 11, 12])
ROWS = torch.tensor([4, 0, 0, 8, 3, 1])
SETTINGS = {
    "none": Augmentation(seed=2),
    "flip": Augmentation(seed=2, epoch=4, flip=True),
    "crop": Augmentation(seed=2**63, epoch=4, pad=3),
    "both": Augmentation(seed=2, epoch=4, flip=True, pad=3, pad_mode="reflect"),
    "policy": Augmentation(seed=2, epoch=4, policy="cifar10-weak"),
}
every_setting = pytest.mark.parametrize("augmentation", SETTINGS.values(), ids=SETTINGS)
every_device = pytest.mark.parametrize("device", DEVICES)


def images(n=9):
    return torch.randint(256, (n, 32, 36, 3), dtype=torch.uint8)


@pytest.mark.parametrize("backend", ["", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rows", [None, ROWS], ids=["all", "rows"])
def test_it_is_what_the_kernels_functions_make_of_the_samples(monkeypatch, backend, dtype, rows):
    monkeypatch.setenv(dispatch.VARIABLE, backend)
    whole = images(9 if rows is not None else 6)
    own = whole if rows is None else whole[rows]
    same = {"seed": 2, "epoch": 4, "dtype": dtype}
    for name, expected in {
        "flip": augment(own, INDEX, flip=True, pad=0, **same),
        "both": augment(own, INDEX, flip=True, pad=3, pad_mode="reflect", **same),
        "policy": idbh(own, INDEX, policy="cifar10-weak", **same),
        "none": own.permute(0, 3, 1, 2).to(dtype) / 255,
    }.items():
        found = SETTINGS[name](whole, INDEX, rows, dtype=dtype)
        assert found.dtype == dtype and torch.equal(found, expected)
        assert found.is_contiguous(memory_format=torch.channels_last)


@every_device
@every_setting
def test_an_epoch_on_the_device_is_that_number(augmentation, device):
    given = [tensor.to(device) for tensor in (images(), INDEX, ROWS)]
    epoch = torch.zeros((), dtype=torch.int64, device=device)
    on_device = replace(augmentation, epoch=epoch)
    for number in (0, 3, 2**32 - 1):
        epoch.fill_(number)
        assert torch.equal(on_device(*given), replace(augmentation, epoch=number)(*given))


@every_setting
def test_a_sample_fares_alike_in_any_batch(augmentation):
    whole = images()
    found = augmentation(whole, INDEX, ROWS)
    assert torch.equal(augmentation(whole[:1].contiguous(), INDEX[1:2]), found[1:2])
    assert torch.equal(augmentation(whole, INDEX.flip(0), ROWS.flip(0)).flip(0), found)


def test_every_epoch_and_seed_draws_anew():
    whole, first = images(6), SETTINGS["both"]
    found = [each(whole, INDEX) for each in (first, replace(first, epoch=5), replace(first, seed=3))]
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Augmentation(seed=7)),
        (
            {"flip": True, "crop_padding": 4, "padding_mode": "reflect"},
            Augmentation(seed=7, flip=True, pad=4, pad_mode="reflect"),
        ),
        ({"augment": "idbh-svhn", "flip": True, "crop_padding": 4}, Augmentation(seed=7, policy="svhn")),
    ],
)
def test_it_is_what_a_runs_settings_ask_for(settings, expected):
    assert Augmentation.of(Data(**settings), seed=7) == expected


@pytest.mark.parametrize(
    ("field", "message"),
    [({"pad": -1}, "pad=-1"), ({"seed": -1}, "seed=-1"), ({"policy": "imagenet"}, "unknown policy 'imagenet'")],
)
def test_what_the_kernels_refuse_is_refused(field, message):
    with pytest.raises(UserError, match=message):
        Augmentation(**field)(images(6), INDEX)
