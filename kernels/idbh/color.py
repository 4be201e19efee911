"""The operations of ColorShape that change levels, as Pillow computes them on 8 bits, for whole batches.

Saturation, brightness, contrast and sharpness each blend the image with a degenerate version of itself;
autocontrast and equalize each map levels by a table of 256. An image takes part in one of the six or in none: for
the others its table is the identity and its blend's factor 1, which return every level as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.kernels.idbh.policies import Kind

_LEVELS = 256


def adjust(images: Tensor, kind: Tensor, magnitude: Tensor) -> Tensor:
    """What its kind does to the levels of each image.

    Args:
        images: uint8 (m, H, W, 3).
        kind: int64 (m,), values of :class:`Kind`.
        magnitude: float64 (m,), the factor of the first four kinds, where 1 changes nothing.

    Returns:
        uint8 (m, H, W, 3).
    """
    levels = _map(images, kind[:, None, None]).float()
    kind = kind[:, None, None, None]
    factor = torch.where(kind <= Kind.SHARPNESS.value, magnitude[:, None, None, None], 1.0).float()
    degenerate = _degenerate(levels, kind)
    # Pillow blends in float32, product before sum, and cuts off what is beyond 0 … 255 and behind the point.
    return levels.sub_(degenerate).mul_(factor).add_(degenerate).clamp_(0, _LEVELS - 1).to(torch.uint8)


def _degenerate(levels: Tensor, kind: Tensor) -> Tensor:
    """The image's other self, float32 with whole values: grey, smooth, its mean grey, or black."""
    grey = _grey(levels)
    num_pixels = grey.shape[1] * grey.shape[2]
    total = grey.sum((1, 2), keepdim=True, dtype=torch.int64)
    mean = ((2 * total + num_pixels) // (2 * num_pixels)).float()
    flat = torch.where(kind == Kind.CONTRAST.value, mean, 0.0)
    grey_or_flat = torch.where(kind == Kind.SATURATION.value, grey, flat)
    return torch.where(kind == Kind.SHARPNESS.value, _smooth(levels), grey_or_flat)


def _grey(levels: Tensor) -> Tensor:
    """ITU-R 601 luma in 16-bit fixed point, (m, H, W, 1); every sum is a whole number that float32 holds."""
    red, green, blue = levels[..., None].unbind(3)
    return (red * 19595).add_(green * 38470).add_(blue * 7471).add_(2**15).mul_(2**-16).floor_()


def _smooth(levels: Tensor) -> Tensor:
    """Each pixel 5 parts and its eight neighbours 1 part of 13, to the nearest level; the border as it is."""
    three = levels[:, :-2] + levels[:, 1:-1] + levels[:, 2:]
    nine = three[:, :, :-2] + three[:, :, 1:-1] + three[:, :, 2:]
    inner = levels[:, 1:-1, 1:-1]
    smooth = levels.clone()
    # No thirteenth lies half-way between two levels, nor nearer to it than float32 can tell.
    smooth[:, 1:-1, 1:-1] = nine.add_(inner, alpha=4).div_(13).round_()
    return smooth


def _map(images: Tensor, kind: Tensor) -> Tensor:
    """The images after autocontrast and equalize; ``kind`` is (m, 1, 1)."""
    num_images, _, _, channels = images.shape
    num_tables = num_images * channels
    table_0 = torch.arange(0, num_tables * _LEVELS, _LEVELS, dtype=torch.int32, device=images.device)
    cells = (images + table_0.view(num_images, 1, 1, channels)).flatten()
    low, high = (level.to(torch.int64)[..., None] for level in (images.amin((1, 2)), images.amax((1, 2))))
    identity = torch.arange(_LEVELS, device=images.device)
    tables = torch.where(
        kind == Kind.AUTOCONTRAST.value,
        _stretched(identity, low, high),
        torch.where(kind == Kind.EQUALIZE.value, _equalized(identity, _count(cells, low), high), identity),
    )
    return tables.to(torch.uint8).flatten().index_select(0, cells).view(images.shape)


def _count(cells: Tensor, like: Tensor) -> Tensor:
    """How often each level occurs, (m, C, 256)."""
    counts = torch.zeros((*like.shape[:2], _LEVELS), dtype=torch.int32, device=cells.device)
    one = torch.ones((), dtype=torch.int32, device=cells.device)
    counts.view(-1).scatter_add_(0, cells.to(torch.int64), one.expand(cells.shape))
    return counts


def _stretched(identity: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Autocontrast: the darkest level to 0, the lightest to 255, in float64 as in Python."""
    # A number divided by a tensor would be the tensor's reciprocal, rounded, times the number.
    scale = torch.full_like(low, _LEVELS - 1, dtype=torch.float64) / (high - low)
    stretched = (identity * scale + -low * scale).clamp_(0, _LEVELS - 1)
    return torch.where(high > low, stretched, identity.double()).to(torch.int64)


def _equalized(identity: Tensor, counts: Tensor, high: Tensor) -> Tensor:
    """Equalize: a level up for every ``step`` pixels that are darker; nothing where that is less than one."""
    step = (counts.sum(2, keepdim=True) - counts.gather(2, high)) // (_LEVELS - 1)
    darker = counts.cumsum(2) - counts
    equalized = (darker + step // 2) // step.clamp(min=1)
    return torch.where(step > 0, equalized.clamp_(max=_LEVELS - 1), identity)
