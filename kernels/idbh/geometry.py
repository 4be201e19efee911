"""Everything that moves pixels (flip, CropShift, shear, rotation), as one look-up of where each comes from.

Shears and rotations are torchvision's on a PIL image: about the image's centre, nearest pixel, black outside. Pillow
computes them in 16.16 fixed point for images whose sides add up to less than 32768; so does this.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastiseat.kernels.idbh.crop_shift import Placement
from fastiseat.kernels.idbh.policies import Kind

_FRACTION_BITS = 16


def matrix(kind: Tensor, magnitude: Tensor, vertical: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The map from result to source: x' = diagonal·x + skew_x·y and y' = skew_y·x + diagonal·y.

    The identity for kinds other than shear and rotation.

    Args:
        kind: int64 (m,), values of :class:`Kind`.
        magnitude: float64 (m,): signed radians of a shear, signed degrees (counterclockwise) of a rotation.
        vertical: bool (m,): whether a shear moves columns along y rather than rows along x.

    Returns:
        diagonal, skew_x and skew_y, each float64 (m,).
    """
    angle = torch.where(kind == Kind.ROTATE.value, magnitude * (math.pi / 180), 0.0)
    slope = torch.where(kind == Kind.SHEAR.value, magnitude.tan(), 0.0)
    sine = angle.sin()
    return angle.cos(), slope * ~vertical - sine, slope * vertical + sine


def positions(diagonal: Tensor, skew_x: Tensor, skew_y: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The row and the column that each pixel of the result comes from, int32 (m, H, W), also outside the image."""
    x = torch.arange(width, dtype=torch.int32, device=diagonal.device)
    y = torch.arange(height, dtype=torch.int32, device=diagonal.device)[:, None]
    center_x, center_y = width * 0.5, height * 0.5
    # Each sum in Pillow's order, so that no bit differs before the rounding to fixed point.
    from_x = (diagonal * -center_x + skew_x * -center_y) + center_x + diagonal * 0.5 + skew_x * 0.5
    from_y = (skew_y * -center_x + diagonal * -center_y) + center_y + skew_y * 0.5 + diagonal * 0.5
    scale = _fixed(diagonal)
    columns = (_fixed(from_x) + scale * x) + _fixed(skew_x) * y
    rows = (_fixed(from_y) + scale * y) + _fixed(skew_y) * x
    return rows >> _FRACTION_BITS, columns >> _FRACTION_BITS


def look_up(
    images: Tensor, flip: Tensor, placed: tuple[Placement, Placement], source: tuple[Tensor, Tensor]
) -> Tensor:
    """Flip, then CropShift, then the affine map, in a single pass over the pixels.

    Args:
        images: uint8 (m, H, W, C).
        flip: int64 (m,), 1 where the image is mirrored.
        placed: what CropShift shows, along rows and columns.
        source: rows and columns, each int32 (m, H, W), as :func:`positions` gives them.

    Returns:
        uint8 (m, H, W, C), black where no pixel of the image lies.
    """
    num_images, height, width, channels = images.shape
    rows, columns = source
    row_place, column_place = placed
    inside = _inside(rows, row_place).logical_and_(_inside(columns, column_place))
    # The flip comes first, so the column counts from the other side; all that is constant in an image is one sum.
    column_0 = column_place.shift + flip * (width - 1 - 2 * column_place.shift)
    image_0 = torch.arange(num_images, device=images.device) * height
    pixel_0 = (image_0 + row_place.shift) * width + column_0
    pixel = rows * width + columns * _per_image(1 - 2 * flip) + _per_image(pixel_0)
    pixels = images.reshape(-1, channels).index_select(0, (pixel * inside).flatten())
    return pixels.view(images.shape).mul_(inside[..., None])


def _inside(position: Tensor, placement: Placement) -> Tensor:
    return (position >= _per_image(placement.first)).logical_and_(position < _per_image(placement.stop))


def _per_image(values: Tensor) -> Tensor:
    return values.to(torch.int32)[:, None, None]


def _fixed(values: Tensor) -> Tensor:
    return _per_image((values * 2**_FRACTION_BITS + 0.5).floor())
