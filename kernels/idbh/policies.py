"""The published policies of IDBH: which operation is how likely, and how strong.

Li and Spratling, "Data augmentation alone can improve adversarial training", ICLR 2023, and the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """The operations of ColorShape, in the order in which a draw is divided among them.

    Tensors of kinds are compared with a member's ``value``: to torch.compile no tensor equals a member itself.
    """

    SATURATION = 0
    BRIGHTNESS = 1
    CONTRAST = 2
    SHARPNESS = 3
    AUTOCONTRAST = 4
    EQUALIZE = 5
    SHEAR = 6
    ROTATE = 7


class Choice(NamedTuple):
    """How often an operation is drawn, and the range of its magnitude."""

    probability: float
    low: float = 0
    high: float = 0
    """Factors have no unit; shears are in radians and rotations in whole degrees, both of either sign."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One augmentation: horizontal flip, CropShift, one operation of ColorShape, RandomErasing."""

    crop_shift: tuple[int, int]
    """lo and hi: lo … hi - 1 pixels are cut off in all, and the rest is shifted."""
    color_shape: Mapping[Kind, Choice]
    """Every kind in order; the probabilities add up to 1."""
    erasing_probability: float
    erasing_area: tuple[float, float]
    """The erased part of the image's area, from and to."""
    erasing_aspect: tuple[float, float] = (0.3, 3.3)
    """Height by width of what is erased, from and to, drawn evenly on a logarithmic scale."""


_COLOR = {
    Kind.SATURATION: Choice(0.125, 0.1, 1.9),
    Kind.BRIGHTNESS: Choice(0.125, 0.5, 1.9),
    Kind.CONTRAST: Choice(0.125, 0.5, 1.9),
    Kind.SHARPNESS: Choice(0.125, 0.1, 1.9),
    Kind.AUTOCONTRAST: Choice(0.125),
    Kind.EQUALIZE: Choice(0.125),
    Kind.SHEAR: Choice(0.125, 0.05, 0.15),
    Kind.ROTATE: Choice(0.125, 1, 10),
}
_SHAPE = {
    Kind.SATURATION: Choice(0.08, 0.1, 1.9),
    Kind.BRIGHTNESS: Choice(0.08, 0.5, 1.9),
    Kind.CONTRAST: Choice(0.04, 0.5, 1.9),
    Kind.SHARPNESS: Choice(0.08, 0.1, 1.9),
    Kind.AUTOCONTRAST: Choice(0.04),
    Kind.EQUALIZE: Choice(0.08),
    Kind.SHEAR: Choice(0.30, 0.05, 0.35),
    Kind.ROTATE: Choice(0.30, 1, 30),
}

POLICIES = {
    "cifar10-weak": Policy(
        crop_shift=(0, 11), color_shape=_COLOR, erasing_probability=0.5, erasing_area=(0.02, 0.33)
    ),
    "cifar10-strong": Policy(
        crop_shift=(0, 11), color_shape=_COLOR, erasing_probability=1.0, erasing_area=(0.02, 0.33)
    ),
    "svhn": Policy(crop_shift=(0, 9), color_shape=_SHAPE, erasing_probability=1.0, erasing_area=(0.02, 0.5)),
}
