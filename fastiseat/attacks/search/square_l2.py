"""What Square Attack tries in the L2 ball: in place of squares, pairs of bumps whose mass it moves about.

Andriushchenko et al., 2020, Section 3.4 and Algorithm 3, with the details of AutoAttack's code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.attacks.balls.l2 import L2
from fastiseat.attacks.draws import signs

_L2 = L2()
# Tiles of the starting point along a side.
_TILES = 5


def bump(row: Tensor, column: Tensor, side: Tensor, turned: Tensor, like: Tensor) -> Tensor:
    """(m, 1, H, W) of length 1: in a window of ``side`` pixels from ``row`` and ``column`` a hill and a hole beside it.

    Within its half the height falls from the middle outwards in square rings, from Σ 1/j² over all j to its last
    term. All arguments but ``like`` are (m,); ``turned`` ones lie side by side, others upon each other.
    """
    height, width = like.shape[2:]
    down = (torch.arange(height, device=like.device) - row[:, None])[:, :, None]
    right = (torch.arange(width, device=like.device) - column[:, None])[:, None, :]
    side, turned = side[:, None, None], turned[:, None, None]
    along, across = torch.where(turned, right, down), torch.where(turned, down, right)
    middle = side // 2
    is_hill = along < middle
    size = torch.where(is_hill, middle, side - middle)
    ring = torch.maximum((along - (side - size) * ~is_hill - size // 2).abs(), (across - middle).abs())
    inside = (along >= 0) & (along < side) & (across >= 0) & (across < side)
    sums = _sums(max(height, width) + 1, like)
    value = torch.where(inside, sums[middle + 1] - sums[ring.clamp(0, len(sums) - 1)], 0.0)
    hill, hole = (_unit(torch.where(part, value, 0.0)) for part in (is_hill, ~is_hill))
    return _unit(hill - hole).unsqueeze(1)


def tiles_words(like: Tensor) -> int:
    """How many random words a sample of :func:`tiles` takes."""
    return len(_tile_places(like)) * (1 + like.shape[1])


def tiles(images: Tensor, eps: Tensor, words: Tensor) -> Tensor:
    """The starting point: bumps of random colours side by side, of length ε in all."""
    channels, side = images.shape[1], max(images.shape[2] // _TILES, 1)
    delta, index = torch.zeros_like(images), torch.zeros_like(words[:, 0])
    for number, (row, column) in enumerate(_tile_places(images)):
        turn, *colours = words[:, number * (1 + channels) :].unbind(1)[: 1 + channels]
        place = index + row, index + column, index + side, turn >> 31 == 1
        delta += bump(*place, images) * signs(torch.stack(colours, 1), images.dtype)[:, :, None, None]
    return (images + eps * _L2.steepest(delta)).clamp_(0, 1)


def moved(
    images: Tensor, best: Tensor, eps: Tensor, windows: tuple[Tensor, Tensor], shape: Tensor, colours: Tensor
) -> Tensor:
    """The image that is tried next: the δ of one window is taken off, and another one gets its mass and more.

    Args:
        images: (m, C, H, W).
        best: the best image so far.
        eps: ().
        windows: bool (m, 1, H, W), the one that gains and the one that loses.
        shape: (m, 1, H, W), a :func:`bump` in the gaining window, to be added to what is there.
        colours: (m, C), the bump's signs.
    """
    gains, loses = windows
    delta = best - images
    in_window = torch.where(gains, delta, 0.0)
    mass = _in_planes(torch.where(gains | loses, delta, 0.0))
    left = (eps**2 - _L2.length(delta) ** 2).clamp_min(0) / images.shape[1]
    new = shape * colours[:, :, None, None] + in_window / (_in_planes(in_window) + 1e-12)
    new = new / (_in_planes(new) + 1e-12) * (left + mass**2).sqrt()
    delta = torch.where(gains, new, torch.where(loses, 0.0, delta))
    return (images + eps * _L2.steepest(delta)).clamp_(0, 1)


def _in_planes(delta: Tensor) -> Tensor:
    """(m, C, 1, 1): the length of each colour plane."""
    length: Tensor = torch.linalg.vector_norm(delta, dim=(2, 3), keepdim=True)
    return length


def _unit(value: Tensor) -> Tensor:
    """Of length 1 in each (H, W), or nothing where it is nothing."""
    length: Tensor = torch.linalg.vector_norm(value, dim=(1, 2), keepdim=True)
    return value / length.clamp_min(1e-30)


def _sums(size: int, like: Tensor) -> Tensor:
    """Σ 1/j² over j ≤ k, for k = 0 … ``size``."""
    terms = torch.arange(size + 1, dtype=like.dtype, device=like.device).clamp_min(1).pow(-2)
    return terms.cumsum(0) - 1


def _tile_places(like: Tensor) -> list[tuple[int, int]]:
    height, width = like.shape[2:]
    side = max(height // _TILES, 1)
    margin = (height - side * _TILES) // 2
    starts = [range(max(margin, 0), max(margin, 0) + side * (size // side), side) for size in (height, width)]
    return [(row, column) for row in starts[0] for column in starts[1]]
