"""``augment``: the batched reference against one image at a time in NumPy, with draws from Python's own integers."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from devices import DEVICES, assert_within_an_ulp
from hypothesis import given
from hypothesis import strategies as st
from oracles.philox import philox_oracle
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.kernels import augment
from fastiseat.kernels.augment import reference
from fastiseat.kernels.core.dispatch import VARIABLE

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
NUMPY_MODES = {"zero": "constant", "reflect": "reflect"}
SEEDS, EPOCHS = [0, 1, 2**32 - 1, 2**32, 2**63 + 12345, 2**64 - 1], [0, 199, 2**31, 2**32 - 1]


@pytest.fixture(autouse=True, scope="module")
def by_the_reference():
    """The kernels are held to it in ``test_augment_backends.py``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "reference")
        yield


def draws_oracle(index: int, seed: int, epoch: int, pad: int) -> tuple[int, int, int]:
    stream = 1
    index %= 2**64
    words = philox_oracle((index % 2**32, index // 2**32, epoch, stream), (seed % 2**32, seed // 2**32))
    return words[0] // 2**31, words[1] * (2 * pad + 1) // 2**32, words[2] * (2 * pad + 1) // 2**32


def oracle(images: Tensor, index: Tensor, *, seed, epoch, flip=True, pad=4, pad_mode="zero") -> Tensor:
    """uint8 (m, H, W, C): the recipe word for word, one image after the other."""
    height, width = images.shape[1:3]
    done = []
    for image, place in zip(images.numpy(), index.tolist(), strict=True):
        mirrored, top, left = draws_oracle(place, seed, epoch, pad)
        if flip and mirrored:
            image = np.flip(image, axis=1)
        image = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=NUMPY_MODES[pad_mode])
        done.append(image[top : top + height, left : left + width])
    return torch.from_numpy(np.stack(done))


def converted(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return images.to(dtype).div(255).permute(0, 3, 1, 2)


def batch(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random pixels, and places in the data set: small ones and every one of a few that try the high word."""
    rng = torch.Generator().manual_seed(seed)
    index = torch.randint(0, 50_000, shape[:1], generator=rng)
    special = torch.tensor([0, 2**32 - 1, 2**32, 2**40 + 3, 2**63 - 1, -1])
    index[1 : 1 + len(special)] = special[: max(len(index) - 1, 0)]
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng), index


@pytest.mark.parametrize("shape", [(1, 8, 8, 1), (127, 32, 32, 3), (9, 5, 12, 3), (8, 13, 7, 1), (3, 1, 6, 2)])
@pytest.mark.parametrize("pad_mode", ["zero", "reflect"])
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("pad", [0, 1, 4])
def test_equals_the_oracle(shape, pad_mode, flip, pad):
    if pad_mode == "reflect":
        pad = min(pad, shape[1] - 1, shape[2] - 1)
    images, index = batch(shape)
    settings = {"seed": 7, "epoch": 3, "flip": flip, "pad": pad, "pad_mode": pad_mode}
    assert torch.equal(augment(images, index, **settings), converted(oracle(images, index, **settings)))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("epoch", EPOCHS)
def test_every_bit_of_seed_epoch_and_index_counts(seed, epoch):
    images, index = batch((9, 6, 7, 1))
    expected = converted(oracle(images, index, seed=seed, epoch=epoch))
    assert torch.equal(augment(images, index, seed=seed, epoch=epoch), expected)
    assert torch.equal(augment(images, index, seed=seed, epoch=torch.tensor(epoch)), expected)


@given(data=st.data())
def test_random_calls(data):
    shape = data.draw(st.tuples(*map(st.integers, [1] * 4, [6, 9, 9, 4])), label="shape")
    images, _ = batch(shape, seed=data.draw(st.integers(0, 9)))
    places = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9)
    index = torch.tensor(data.draw(st.lists(places, min_size=shape[0], max_size=shape[0]), label="index"))
    pad_mode = data.draw(st.sampled_from(["zero", "reflect"]))
    settings = {
        "seed": data.draw(st.integers(0, 2**64 - 1) | st.integers(0, 9), label="seed"),
        "epoch": data.draw(st.integers(0, 2**32 - 1) | st.integers(0, 9), label="epoch"),
        "flip": data.draw(st.booleans()),
        "pad": data.draw(st.integers(0, 12 if pad_mode == "zero" else min(shape[1:3]) - 1), label="pad"),
        "pad_mode": pad_mode,
    }
    expected = converted(oracle(images, index, **settings))
    assert torch.equal(augment(images, index, **settings), expected)


@given(order=st.permutations(range(12)), cut=st.integers(0, 12))
def test_a_sample_knows_nothing_of_its_batch(order, cut):
    images, index = batch((12, 5, 5, 2))
    expected = augment(images, index, seed=1, epoch=2)
    assert torch.equal(augment(images[order], index[order], seed=1, epoch=2), expected[order])
    parts = [augment(images[part], index[part], seed=1, epoch=2) for part in (slice(cut), slice(cut, None))]
    assert torch.equal(torch.cat(parts), expected)


def test_the_same_place_twice_has_the_same_fate():
    images, index = batch((1, 9, 9, 3))
    twice = augment(images.repeat(2, 1, 1, 1), index.repeat(2), seed=1, epoch=2)
    assert torch.equal(twice[0], twice[1])


def test_seed_epoch_and_index_each_change_the_draws():
    images, index = batch((64, 8, 8, 1))
    first = augment(images, index, seed=0, epoch=0)
    again = augment(images, index, seed=0, epoch=0)
    others = [
        augment(images, index, seed=1, epoch=0),
        augment(images, index, seed=2**32, epoch=0),
        augment(images, index, seed=0, epoch=1),
        augment(images, index + 1, seed=0, epoch=0),
        augment(images, index + 2**32, seed=0, epoch=0),
    ]
    assert torch.equal(first, again)
    for one in range(len(others)):
        for other in [first, *others[:one]]:
            assert (others[one] != other).flatten(1).any(1).float().mean() > 0.9


def test_flip_and_crop_are_drawn_apart():
    """Switching one off, or another pad, changes nothing about the other."""
    images, index = batch((50, 9, 9, 1))
    flips, top, left = reference.draws(index, seed=5, epoch=6, pad=4)
    only_flip = augment(images, index, seed=5, epoch=6, pad=0)
    assert torch.equal(
        only_flip, converted(torch.where(flips.bool()[:, None, None, None], images.flip(2), images))
    )
    only_crop = augment(images, index, seed=5, epoch=6, flip=False)
    assert torch.equal(only_crop, converted(oracle(images, index, seed=5, epoch=6, flip=False)))
    wider_flips, wider_top, wider_left = reference.draws(index, seed=5, epoch=6, pad=40)
    assert torch.equal(wider_flips, flips)
    assert ((wider_top / 81 - top / 9).abs() < 1 / 9).all()
    assert ((wider_left / 81 - left / 9).abs() < 1 / 9).all()


@pytest.mark.parametrize("pad_mode", ["zero", "reflect"])
def test_one_image_by_hand(pad_mode):
    rows = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.uint8)
    place = next(i for i in range(200) if draws_oracle(i, 0, 0, 1) == (1, 0, 2))
    image = augment(rows[None, :, :, None], torch.tensor([place]), seed=0, epoch=0, pad=1, pad_mode=pad_mode)
    # Mirrored: 321, 654. Up by one row into the padding, right by one column into it.
    expected = {"zero": [[0, 0, 0], [2, 1, 0]], "reflect": [[5, 4, 5], [2, 1, 2]]}[pad_mode]
    assert torch.equal(image[0, 0], torch.tensor(expected) / 255)


def chi_square(cells: Tensor, num_cells: int) -> float:
    """Pearson's statistic against the uniform distribution, in standard deviations from its mean."""
    counts = torch.bincount(cells, minlength=num_cells).double()
    assert len(counts) == num_cells
    expected = len(cells) / num_cells
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    return (statistic - (num_cells - 1)) / (2 * (num_cells - 1)) ** 0.5


def joint(flips: Tensor, top: Tensor, left: Tensor) -> Tensor:
    return (flips * 9 + top) * 9 + left


class TestUniform:
    """Fixed seeds: what passes once passes always."""

    @pytest.mark.parametrize("seed", [0, 1, 2**40])
    def test_over_a_data_set(self, seed):
        flips, top, left = reference.draws(torch.arange(50_000), seed=seed, epoch=0, pad=4)
        assert abs(flips.double().mean() - 0.5) < 0.01
        assert abs(chi_square(flips, 2)) < 3
        assert abs(chi_square(top, 9)) < 3
        assert abs(chi_square(left, 9)) < 3
        assert abs(chi_square(joint(flips, top, left), 162)) < 3

    def test_over_the_epochs_of_one_image(self):
        fates = reference.draws(torch.tensor([17]), seed=0, epoch=torch.arange(50_000), pad=4)
        assert abs(chi_square(joint(*fates), 162)) < 3

    def test_neighbours_are_independent(self):
        """Of one sample the next epoch, the next seed and the next index: every pair of flips and of rows."""
        index = torch.arange(50_000)
        flips, top, _ = reference.draws(index, seed=0, epoch=0, pad=4)
        for place, seed, epoch in [(index + 1, 0, 0), (index, 1, 0), (index, 0, 1)]:
            next_flips, next_top, _ = reference.draws(place, seed=seed, epoch=epoch, pad=4)
            assert abs(chi_square(flips * 2 + next_flips, 4)) < 3
            assert abs(chi_square(top * 9 + next_top, 81)) < 3

    def test_reaches_every_offset(self):
        _, top, left = reference.draws(torch.arange(5_000), seed=0, epoch=0, pad=12)
        assert top.unique().tolist() == left.unique().tolist() == list(range(25))


# For each index: mirrored or not, top, left.
FIRST_DRAWS = [[0, 1, 0, 1, 0, 1, 1, 1], [0, 2, 7, 5, 8, 3, 3, 8], [8, 3, 1, 7, 5, 4, 2, 4]]
LATER_DRAWS = [[0, 0, 0, 1, 0, 0, 0, 0], [2, 0, 1, 8, 3, 3, 1, 4], [5, 7, 1, 1, 2, 3, 8, 5]]


class TestTheStreamNeverChanges:
    """Literal values, from the oracle: whoever changes them changes every run that was ever seeded."""

    @pytest.mark.parametrize(("seed", "epoch", "expected"), [(0, 0, FIRST_DRAWS), (2**63 + 1, 199, LATER_DRAWS)])
    def test_draws(self, seed, epoch, expected):
        index = torch.tensor([0, 1, 2, 3, 4, 5, 49_999, 2**40])
        assert [draws.tolist() for draws in reference.draws(index, seed=seed, epoch=epoch, pad=4)] == expected

    @pytest.mark.parametrize(
        ("pad_mode", "checksum"),
        [
            ("zero", "31cb42e79ea5386ff6632f0aa7a651f5eefa3263ed11bd40328cd1476f2f3118"),
            ("reflect", "e06ba24ffb89605c7728c69bc7efddf586b87195ed1a22a9ce13ee6c98541b18"),
        ],
    )
    def test_pixels(self, pad_mode, checksum):
        pixels = torch.arange(16 * 32 * 32 * 3).mul(37).remainder(251).to(torch.uint8).view(16, 32, 32, 3)
        images = augment(pixels, torch.arange(16), seed=1234, epoch=56, pad_mode=pad_mode)
        levels = images.mul(255).round().to(torch.uint8).contiguous()
        assert hashlib.sha256(levels.numpy().tobytes()).hexdigest() == checksum


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"pad_mode": "reflect"}, {"flip": False, "pad": 0}])
def test_dtypes_and_memory_formats(dtype, memory_format, channels, settings):
    images, index = batch((6, 9, 7, channels))
    result = augment(images, index, seed=1, epoch=2, dtype=dtype, memory_format=memory_format, **settings)
    assert result.dtype == dtype
    assert result.shape == (6, channels, 9, 7)
    if memory_format == torch.channels_last:
        assert result.stride() == (9 * 7 * channels, 1, 7 * channels, channels)
    else:
        assert result.stride() == (channels * 9 * 7, 9 * 7, 7, 1)
    assert torch.equal(result, converted(oracle(images, index, seed=1, epoch=2, **settings), dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_level_is_the_quotient_correctly_rounded(dtype):
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    torch_dtype = torch.from_numpy(np.empty(0, dtype)).dtype
    result = augment(levels, torch.tensor([0]), seed=0, epoch=0, flip=False, pad=0, dtype=torch_dtype)
    assert result.flatten().tolist() == [float(dtype(level) / dtype(255)) for level in range(256)]
    assert result.min() == 0
    assert result.max() == 1


def test_only_the_conversion_draws_nothing(monkeypatch):
    monkeypatch.setattr(reference, "draws", None)
    images, index = batch((4, 8, 8, 1))
    assert torch.equal(augment(images, index, seed=0, epoch=0, flip=False, pad=0), converted(images))


@pytest.mark.parametrize("settings", [{}, {"pad_mode": "reflect"}, {"pad": 0}, {"flip": False}])
def test_images_of_any_strides_and_no_argument_is_changed(settings):
    images, index = batch((6, 9, 9, 3))
    expected = augment(images, index, seed=1, epoch=2, **settings)
    planes = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    swapped = images.transpose(1, 2).contiguous().transpose(1, 2)
    every_other = images.repeat_interleave(2, 0).repeat_interleave(2, 2)[::2, :, ::2]
    rows_innermost = images.contiguous(memory_format=torch.channels_last)
    for view in (images, planes, swapped, every_other, rows_innermost):
        before, index_before = view.clone(), index.clone()
        assert torch.equal(augment(view, index, seed=1, epoch=2, **settings), expected)
        assert torch.equal(view, before)
        assert torch.equal(index, index_before)


def test_all_padding_and_all_white():
    """Zero padding brings black and nothing else, reflection none at all."""
    white, index = torch.full((40, 3, 3, 1), 255, dtype=torch.uint8), torch.arange(40)
    beyond = augment(white, index, seed=0, epoch=0, pad=9)
    assert beyond.unique().tolist() == [0, 1]
    assert (beyond.flatten(1).sum(1) == 0).any()
    assert torch.equal(augment(white, index, seed=0, epoch=0, pad=2, pad_mode="reflect"), torch.ones(40, 1, 3, 3))


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (2, 0, 8, 3), (2, 8, 8, 0)])
@pytest.mark.parametrize("pad_mode", ["zero", "reflect"])
def test_empty(shape, pad_mode):
    images = torch.zeros(shape, dtype=torch.uint8)
    result = augment(images, torch.arange(shape[0]), seed=0, epoch=0, pad_mode=pad_mode)
    assert result.shape == (shape[0], shape[3], shape[1], shape[2])


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64])
def test_an_epoch_of_any_integer_dtype(dtype):
    images, index = batch((6, 9, 9, 3))
    expected = augment(images, index, seed=1, epoch=200)
    assert torch.equal(augment(images, index, seed=1, epoch=torch.tensor(200, dtype=dtype)), expected)


@pytest.mark.parametrize("pad_mode", ["zero", "reflect"])
def test_nothing_is_read_back(pad_mode):
    """A tensor on the device ``meta`` has no values: whatever asked for one would fail."""
    images, index = torch.zeros(5, 8, 9, 3, dtype=torch.uint8, device="meta"), torch.arange(5, device="meta")
    epoch = torch.tensor(0, device="meta")
    result = augment(images, index, seed=2**64 - 1, epoch=epoch, pad_mode=pad_mode)
    assert (result.device.type, result.shape) == ("meta", (5, 3, 8, 9))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_pixels_are_the_cpus_to_the_last_bit_but_one(device, dtype):
    """A GPU may multiply by 1/255 where a CPU divides."""
    images, index = batch((32, 9, 12, 3))
    for pad_mode in NUMPY_MODES:
        settings = {"seed": 1, "epoch": 2, "pad_mode": pad_mode, "dtype": dtype}
        found = augment(images.to(device), index.to(device), **settings)
        assert found.device.type == device
        assert_within_an_ulp(found, augment(images, index, **settings))


@pytest.mark.gpu
@pytest.mark.parametrize("pad_mode", ["zero", "reflect"])
def test_a_captured_graph_draws_anew_for_each_epoch(pad_mode):
    images, index = batch((64, 32, 32, 3))
    on_gpu, index_on_gpu, epoch = images.cuda(), index.cuda(), torch.zeros((), dtype=torch.int64, device="cuda")
    augment(on_gpu, index_on_gpu, seed=1, epoch=epoch, pad_mode=pad_mode)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = augment(on_gpu, index_on_gpu, seed=1, epoch=epoch, pad_mode=pad_mode)
    for number in (0, 1, 199):
        epoch.fill_(number)
        graph.replay()
        levels = result.mul(255).round().to(torch.uint8).cpu()
        assert torch.equal(
            levels.permute(0, 2, 3, 1), oracle(images, index, seed=1, epoch=number, pad_mode=pad_mode)
        )


IMAGES, INDEX = torch.zeros(2, 8, 6, 3, dtype=torch.uint8), torch.arange(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES.float()}, r"images are torch\.float32 .*uint8 of shape \(m, H, W, C\) is needed"),
        ({"images": IMAGES.to(torch.int8)}, "images are torch.int8"),
        ({"images": IMAGES[0]}, r"of shape \(8, 6, 3\)"),
        ({"images": IMAGES[None]}, r"of shape \(1, 2, 8, 6, 3\)"),
        ({"index": INDEX.int()}, r"index is torch\.int32"),
        ({"index": torch.arange(3)}, r"index is .* of shape \(3,\); int64 of shape \(2,\) is needed"),
        ({"index": INDEX[:, None]}, r"of shape \(2, 1\)"),
        ({"index": torch.tensor(0)}, r"of shape \(\)"),
        ({"index": INDEX.to("meta")}, "index lies on meta, images on cpu"),
        ({"seed": -1}, r"seed=-1 must lie in 0 … 2\*\*64 - 1"),
        ({"seed": 2**64}, "seed=18446744073709551616 must lie"),
        ({"epoch": -1}, r"epoch=-1 must lie in 0 … 2\*\*32 - 1"),
        ({"epoch": 2**32}, "epoch=4294967296 must lie"),
        ({"epoch": torch.zeros(2, dtype=torch.int64)}, r"epoch is torch\.int64 of shape \(2,\)"),
        ({"epoch": torch.tensor(1.0)}, r"epoch is torch\.float32"),
        ({"epoch": torch.tensor(1j)}, r"epoch is torch\.complex64"),
        ({"epoch": torch.tensor(1, device="meta")}, "epoch lies on meta, images on cpu"),
        ({"pad": -1}, "pad=-1 must not be negative; 0 turns the crop off"),
        ({"pad": 6, "pad_mode": "reflect"}, "pad=6: images of 8×6 pixels reflect at most 5"),
        ({"pad": 100, "pad_mode": "reflect"}, "pad=100"),
        ({"pad_mode": "reflex"}, "unknown pad_mode 'reflex'; did you mean reflect"),
        ({"pad_mode": "edge", "pad": 0}, "unknown pad_mode 'edge'"),
        ({"dtype": torch.uint8}, r"dtype=torch\.uint8 is not offered; choose among torch\.float32, "),
        ({"dtype": torch.complex64}, r"dtype=torch\.complex64 is not offered"),
        ({"dtype": torch.float8_e5m2}, r"dtype=torch\.float8_e5m2 is not offered"),
        ({"memory_format": torch.preserve_format}, r"memory_format=torch\.preserve_format is not offered"),
        ({"memory_format": torch.channels_last_3d}, r"memory_format=torch\.channels_last_3d is not offered"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"images": IMAGES, "index": INDEX, "seed": 0, "epoch": 0} | change
    with pytest.raises(UserError, match=message):
        augment(**arguments)


def test_the_largest_reflection():
    images, index = batch((30, 8, 6, 3))
    settings = {"seed": 0, "epoch": 0, "pad": 5, "pad_mode": "reflect"}
    assert torch.equal(augment(images, index, **settings), converted(oracle(images, index, **settings)))
