"""IDBH for one image at a time, with Pillow: the paper's order, draws from Python's own integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from oracles.philox import philox_oracle

Levels = NDArray[np.uint8]
KINDS = ["saturation", "brightness", "contrast", "sharpness", "autocontrast", "equalize", "shear", "rotate"]
ENHANCERS = {
    "saturation": ImageEnhance.Color,
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
}
FACTORS = {"saturation": (0.1, 1.9), "brightness": (0.5, 1.9), "contrast": (0.5, 1.9), "sharpness": (0.1, 1.9)}


@dataclass(frozen=True)
class Settings:
    hi: int
    percent: tuple[int, ...]
    shear: tuple[float, float]
    largest_angle: int
    erasing: Fraction
    area: tuple[float, float]


COLOR = (Fraction(25, 2),) * 8
SHAPE = (8, 8, 4, 8, 4, 8, 30, 30)
SETTINGS = {
    "cifar10-weak": Settings(11, COLOR, (0.05, 0.15), 10, Fraction(1, 2), (0.02, 0.33)),
    "cifar10-strong": Settings(11, COLOR, (0.05, 0.15), 10, Fraction(1), (0.02, 0.33)),
    "svhn": Settings(9, SHAPE, (0.05, 0.35), 30, Fraction(1), (0.02, 0.5)),
}


@dataclass(frozen=True)
class Draws:
    """One sample's draws; ``box`` is top, left, height and width, or None."""

    mirrored: bool
    cut_x: int
    cut_y: int
    crop: tuple[int, int]
    window: tuple[int, int]
    kind: str
    magnitude: float
    vertical: bool
    box: tuple[int, int, int, int] | None


def uniform(word: int, low: float, high: float) -> float:
    return word / 2**32 * (high - low) + low


def below(word: int, bound: int) -> int:
    return word * bound // 2**32


def draws(index: int, seed: int, epoch: int, policy: str, height: int, width: int) -> Draws:
    """Block by block as the docstring of ``idbh`` tells it."""
    settings, stream, place = SETTINGS[policy], 2, index % 2**64
    blocks = [
        philox_oracle((place % 2**32, place // 2**32, epoch, stream + b * 2**16), (seed % 2**32, seed // 2**32))
        for b in range(13)
    ]
    flip, size, share, gate = blocks[0]
    total = below(size, settings.hi)
    cut_x = below(share, total + 1)
    cut_y = total - cut_x
    left, top, window_left, window_top = blocks[1]
    kind, magnitude, vertical = draw_operation(blocks[2], settings)
    erased = gate < settings.erasing * 2**32
    return Draws(
        mirrored=flip >= 2**31,
        cut_x=cut_x,
        cut_y=cut_y,
        crop=(below(left, cut_x + 1), below(top, cut_y + 1)),
        window=(below(window_left, cut_x + 1), below(window_top, cut_y + 1)),
        kind=kind,
        magnitude=magnitude,
        vertical=vertical,
        box=draw_box(blocks[3:], settings.area, height, width) if erased else None,
    )


def draw_operation(words: tuple[int, ...], settings: Settings) -> tuple[str, float, bool]:
    ends = [sum(settings.percent[: k + 1], Fraction(0)) / 100 for k in range(8)]
    kind = KINDS[next(k for k in range(8) if words[0] < round(ends[k] * 2**32))]
    sign, vertical = -1 if words[2] >= 2**31 else 1, words[3] >= 2**31
    if kind == "rotate":
        return kind, sign * (1 + below(words[1], settings.largest_angle)), vertical
    if kind == "shear":
        return kind, sign * float(np.float32(uniform(words[1], *settings.shear))), vertical
    if kind in FACTORS:
        return kind, float(np.float32(uniform(words[1], *FACTORS[kind]))), vertical
    return kind, 0.0, vertical


def draw_box(tries, area: tuple[float, float], height: int, width: int) -> tuple[int, int, int, int] | None:
    for area_word, aspect_word, top, left in tries:
        pixels = uniform(area_word, *area) * (height * width)
        aspect = math.exp(uniform(aspect_word, math.log(0.3), math.log(3.3)))
        h, w = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if h < height and w < width:
            return below(top, height - h + 1), below(left, width - w + 1), h, w
    return None


def crop_shift(image: Levels, drawn: Draws) -> Levels:
    """Crop, pad with black on both sides, take a window of the image's size."""
    height, width = image.shape[:2]
    left, top = drawn.crop
    rest = image[top : top + height - drawn.cut_y, left : left + width - drawn.cut_x]
    canvas = np.pad(rest, ((drawn.cut_y, drawn.cut_y), (drawn.cut_x, drawn.cut_x), (0, 0)))
    left, top = drawn.window
    return canvas[top : top + height, left : left + width]


def shear(image: Image.Image, radians: float, vertical: bool) -> Image.Image:
    """torchvision's ``affine`` with one shear, in degrees: about (w/2, h/2), and given to Pillow inverted."""
    slope = math.tan(math.radians(math.degrees(radians)))
    a, b, d, e = (1.0, 0.0, slope, 1.0) if vertical else (1.0, slope, 0.0, 1.0)
    x, y = image.width * 0.5, image.height * 0.5
    matrix = (a, b, a * -x + b * -y + x, d, e, d * -x + e * -y + y)
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=(0, 0, 0)
    )


def color_shape(image: Levels, kind: str, magnitude: float, vertical: bool = False) -> Levels:
    """One operation, as torchvision calls Pillow for it."""
    picture = Image.fromarray(image)
    if kind in ENHANCERS:
        picture = ENHANCERS[kind](picture).enhance(magnitude)
    elif kind == "autocontrast":
        picture = ImageOps.autocontrast(picture)
    elif kind == "equalize":
        picture = ImageOps.equalize(picture)
    elif kind == "shear":
        picture = shear(picture, magnitude, vertical)
    else:
        picture = picture.rotate(magnitude, Image.Resampling.NEAREST, fillcolor=(0, 0, 0))
    return np.asarray(picture)


def erase(image: NDArray[np.float32], box: tuple[int, int, int, int] | None) -> NDArray[np.float32]:
    image = image.copy()
    if box is not None:
        top, left, height, width = box
        image[top : top + height, left : left + width] = 0
    return image


def idbh_oracle(image: Levels, index: int, *, seed: int, epoch: int, policy: str) -> NDArray[np.float32]:
    """uint8 (H, W, 3) to float32 (3, H, W): flip, CropShift, ColorShape, [0, 1], RandomErasing."""
    drawn = draws(index, seed, epoch, policy, *image.shape[:2])
    image = np.ascontiguousarray(image[:, ::-1] if drawn.mirrored else image)
    image = color_shape(
        np.ascontiguousarray(crop_shift(image, drawn)), drawn.kind, drawn.magnitude, drawn.vertical
    )
    return erase(image.astype(np.float32) / np.float32(255), drawn.box).transpose(2, 0, 1)
