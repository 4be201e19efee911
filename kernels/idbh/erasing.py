"""RandomErasing: a black box of random size and place, as torchvision draws it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastiseat.kernels.core.philox import below, between
from fastiseat.kernels.idbh.policies import Policy

TRIES = 10
"""How many boxes are drawn for one image: the first that fits is erased."""


class Box(NamedTuple):
    """What is erased, in pixels, each int64 (m,); height 0 where nothing is."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def draw(gate: Tensor, candidates: Tensor, policy: Policy, height: int, width: int) -> Box:
    """The box of each image: the first candidate that fits, none if none does.

    Args:
        gate: words (m,), whether the image is erased from at all.
        candidates: words (TRIES, 4, m), area, aspect, top and left of each box.
        policy: the probability and the ranges.
        height: of the images.
        width: of the images.
    """
    area_word, aspect_word, top_word, left_word = candidates.unbind(1)
    area = between(area_word, *policy.erasing_area) * (height * width)
    low, high = map(math.log, policy.erasing_aspect)
    aspect = between(aspect_word, low, high).exp()
    heights, widths = ((area * aspect).sqrt().round(), (area / aspect).sqrt().round())
    fits = (heights < height) & (widths < width)
    heights, widths = heights.to(torch.int64), widths.to(torch.int64)
    boxes = Box(below(top_word, height - heights + 1), below(left_word, width - widths + 1), heights, widths)
    first = fits.to(torch.uint8).argmax(0, keepdim=True)
    top, left, box_height, box_width = (side.gather(0, first)[0] for side in boxes)
    erased = fits.any(0) & (gate < round(policy.erasing_probability * 2**32))
    return Box(top, left, box_height * erased, box_width)


def erase(images: Tensor, box: Box) -> Tensor:
    """The images with their boxes black; in place.

    Args:
        images: uint8 (m, H, W, C).
        box: of each image.
    """
    rows = _covered(box.top, box.height, images.shape[1])
    columns = _covered(box.left, box.width, images.shape[2])
    return images.mul_((rows[:, :, None] & columns[:, None]).logical_not_()[..., None])


def _covered(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Which of ``size`` positions lie in the interval, bool (m, size)."""
    position = torch.arange(size, device=start.device)
    return (position >= start[:, None]) & (position < (start + length)[:, None])
