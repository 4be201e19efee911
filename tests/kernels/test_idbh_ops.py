"""The operations of ``idbh``, each alone: against Pillow, and against loops written from the paper, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import idbh as oracle
from torch import Tensor

from fastiseat.kernels.idbh import crop_shift, erasing
from fastiseat.kernels.idbh.color import adjust
from fastiseat.kernels.idbh.crop_shift import Cut, Placement, place
from fastiseat.kernels.idbh.erasing import Box, erase
from fastiseat.kernels.idbh.geometry import look_up, matrix, positions
from fastiseat.kernels.idbh.policies import POLICIES, Kind

SIZES = [(32, 32), (48, 40), (11, 17)]


def pictures(height: int, width: int) -> Tensor:
    """Images like photographs, and the extremes at which a rounding or a division could go wrong."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / a + y / b + np.arange(3)[:, None, None]) for a, b in ((5, 9), (11, 4), (17, 23))]
    photos = [(128 + 60 * wave + rng.normal(0, spread, wave.shape)) for wave in waves for spread in (1, 12)]
    channels = np.ones((3, 1, 1))
    ramp, spot = (x + y) * channels, np.zeros((3, height, width))
    spot[:, 4, 4] = 1
    extremes = [
        *(np.full((3, height, width), level) for level in (0, 1, 127, 255)),
        np.arange(3)[:, None, None] * 100 + 0 * ramp,
        *(rng.integers(low, high, (3, height, width)) for low, high in ((0, 256), (0, 2), (254, 256), (100, 140))),
        ramp,
        255 - 3 * ramp,
        x / (width - 1) * 255 * channels,
        *(spot * level for level in (1, 255)),
        255 - spot,
        (x + y) % 2 * 255 * channels,
    ]
    return torch.from_numpy(np.stack([*photos, *extremes]).clip(0, 255).astype(np.uint8)).permute(0, 2, 3, 1)


def repeated(images: Tensor, values: list[float]) -> tuple[Tensor, Tensor]:
    """Every image with every value."""
    magnitude = torch.tensor(values, dtype=torch.float64)
    return images.repeat_interleave(len(values), 0), magnitude.repeat(len(images))


def pillow(images: Tensor, kind: Kind, magnitude: Tensor, *, vertical: bool = False) -> Tensor:
    done = [
        oracle.color_shape(image, kind.name.lower(), value, vertical)
        for image, value in zip(images.contiguous().numpy(), magnitude.tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(done))


def spread(low: float, high: float, num: int = 17) -> list[float]:
    """The ends of a range, its middle and others, as float32."""
    return [float(value) for value in np.linspace(low, high, num, dtype=np.float32)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [Kind.SATURATION, Kind.BRIGHTNESS, Kind.CONTRAST, Kind.SHARPNESS])
def test_blends_equal_pillow(kind, size):
    images, factor = repeated(pictures(*size), [0.0, *spread(0.1, 1.9), 0.5, 0.999, 1.0, 1.001, 4 / 3])
    kinds = torch.full((len(images),), int(kind))
    assert torch.equal(adjust(images, kinds, factor), pillow(images, kind, factor))


@pytest.mark.parametrize("size", [*SIZES, (96, 80), (15, 16), (16, 17)])
@pytest.mark.parametrize("kind", [Kind.AUTOCONTRAST, Kind.EQUALIZE])
def test_tables_equal_pillow(kind, size):
    images, zero = repeated(pictures(*size), [0.0])
    assert torch.equal(adjust(images, torch.full((len(images),), int(kind)), zero), pillow(images, kind, zero))


def test_autocontrast_of_every_range_equals_pillow():
    """A ninth of all pairs of darkest and lightest level, so that roundings in every place are among them."""
    low, high = torch.triu_indices(256, 256, 1)[:, ::9]
    levels = torch.arange(12 * 22).view(1, 12, 22, 1) % (high - low + 1)[:, None, None, None]
    images = (levels + low[:, None, None, None]).to(torch.uint8).expand(-1, -1, -1, 3).contiguous()
    zero = torch.zeros(len(images), dtype=torch.float64)
    kinds = torch.full((len(images),), int(Kind.AUTOCONTRAST))
    assert torch.equal(adjust(images, kinds, zero), pillow(images, Kind.AUTOCONTRAST, zero))


@pytest.mark.parametrize("kind", [Kind.SHEAR, Kind.ROTATE])
def test_shapes_leave_the_levels(kind):
    images, magnitude = repeated(pictures(32, 32), [-5.0, 0.3])
    assert torch.equal(adjust(images, torch.full((len(images),), int(kind)), magnitude), images)


def whole(num: int, size: tuple[int, int]) -> tuple[Placement, Placement]:
    """A CropShift that cuts nothing off."""
    zero = torch.zeros(num, dtype=torch.int64)
    return place(Cut(zero, zero, zero), size[0]), place(Cut(zero, zero, zero), size[1])


def moved(images: Tensor, kind: Kind, magnitude: Tensor, *, vertical: bool = False) -> Tensor:
    num, size = len(images), images.shape[1:3]
    source = positions(*matrix(torch.full((num,), int(kind)), magnitude, torch.full((num,), vertical)), *size)
    return look_up(images, torch.zeros(num, dtype=torch.int64), whole(num, size), source)


@pytest.mark.parametrize("size", [*SIZES, (33, 31), (224, 224)])
@pytest.mark.parametrize("vertical", [False, True])
def test_shear_equals_pillow(size, vertical):
    magnitudes = [sign * value for sign in (1, -1) for value in [*spread(0.05, 0.15, 40), *spread(0.15, 0.35, 40)]]
    images, magnitude = repeated(pictures(*size)[:1], magnitudes)
    assert torch.equal(
        moved(images, Kind.SHEAR, magnitude, vertical=vertical),
        pillow(images, Kind.SHEAR, magnitude, vertical=vertical),
    )


@pytest.mark.parametrize("size", [*SIZES, (33, 31), (224, 224)])
def test_every_rotation_equals_pillow(size):
    images, magnitude = repeated(pictures(*size)[:1], [float(angle) for angle in range(-30, 31)])
    assert torch.equal(moved(images, Kind.ROTATE, magnitude), pillow(images, Kind.ROTATE, magnitude))


@pytest.mark.parametrize("kind", list(Kind)[: Kind.SHEAR])
def test_other_kinds_move_nothing(kind):
    images, magnitude = repeated(pictures(48, 40), [0.1, 1.9])
    assert torch.equal(moved(images, kind, magnitude), images)


@pytest.mark.parametrize("size", [(32, 32), (48, 40), (13, 11)])
@pytest.mark.parametrize("hi", [9, 11])
@pytest.mark.parametrize("flip", [0, 1])
def test_crop_shift_equals_the_loop(size, hi, flip):
    words = torch.randint(0, 2**32, (6, 300), generator=torch.Generator().manual_seed(hi))
    rows, columns = crop_shift.draw(words[0], words[1], words[2:], 0, hi)
    images = torch.randint(1, 256, (300, *size, 3), dtype=torch.uint8)
    source = positions(torch.ones(300, dtype=torch.float64), *torch.zeros(2, 300, dtype=torch.float64), *size)
    placed = place(rows, size[0]), place(columns, size[1])
    result = look_up(images, torch.full((300,), flip), placed, source)
    assert ((rows.size + columns.size).min(), (rows.size + columns.size).max()) == (0, hi - 1)
    for k in range(300):
        drawn = oracle.Draws(
            mirrored=bool(flip),
            cut_x=int(columns.size[k]),
            cut_y=int(rows.size[k]),
            crop=(int(columns.start[k]), int(rows.start[k])),
            window=(int(columns.window[k]), int(rows.window[k])),
            kind="",
            magnitude=0.0,
            vertical=False,
            box=None,
        )
        image = images[k].flip(1) if flip else images[k]
        assert np.array_equal(result[k].numpy(), oracle.crop_shift(image.numpy(), drawn))


@pytest.mark.parametrize("policy", list(POLICIES))
@pytest.mark.parametrize("size", [(32, 32), (48, 40), (11, 200)])
def test_erasing_equals_the_loop(policy, size):
    """At 11×200 most boxes do not fit: the later tries count, and sometimes none is left."""
    generator = torch.Generator().manual_seed(0)
    gate = torch.randint(0, 2**32, (400,), generator=generator)
    tries = torch.randint(0, 2**32, (erasing.TRIES, 4, 400), generator=generator)
    images = torch.randint(1, 256, (400, *size, 3), dtype=torch.uint8, generator=generator)
    result = erase(images.clone(), erasing.draw(gate, tries, POLICIES[policy], *size))
    settings = oracle.SETTINGS[policy]
    boxes = [
        oracle.draw_box(words, settings.area, *size) if word < settings.erasing * 2**32 else None
        for word, words in zip(gate.tolist(), tries.permute(2, 0, 1).tolist(), strict=True)
    ]
    for k, box in enumerate(boxes):
        assert np.array_equal(result[k].numpy(), oracle.erase(images[k].numpy(), box))
    assert any(box is None for box in boxes) == (policy == "cifar10-weak" or min(size) < 32)


def test_nothing_is_erased_where_no_box_fits():
    """The largest area and height by width at every try, which is taller than the image; then one that fits."""
    highest = torch.full((erasing.TRIES, 4, 1), 2**32 - 1)
    box = erasing.draw(torch.zeros(1, dtype=torch.int64), highest, POLICIES["svhn"], 32, 32)
    assert box.height.tolist() == [0]
    one_fits = highest.clone()
    one_fits[7, :2] = 0
    area, aspect = 0.02 * 32 * 32, 0.3
    box = erasing.draw(torch.zeros(1, dtype=torch.int64), one_fits, POLICIES["svhn"], 32, 32)
    height, width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
    assert box == Box(*(torch.tensor([side]) for side in (32 - height, 32 - width, height, width)))
