"""The definition of ``idbh``: whole batches in plain PyTorch, on any device, with nothing read back."""

from __future__ import annotations

from torch import Tensor

from fastiseat.kernels.idbh import draws as draws
from fastiseat.kernels.idbh.arguments import Arguments
from fastiseat.kernels.idbh.color import adjust
from fastiseat.kernels.idbh.crop_shift import place
from fastiseat.kernels.idbh.draws import Draws
from fastiseat.kernels.idbh.erasing import erase
from fastiseat.kernels.idbh.geometry import look_up, matrix, positions
from fastiseat.kernels.idbh.policies import POLICIES


def idbh(call: Arguments) -> Tensor:
    """``fastiseat.kernels.idbh`` in plain PyTorch."""
    images, policy = call.images, POLICIES[call.policy]
    height, width = images.shape[1:3]
    drawn = draws.draw(call.index, seed=call.seed, epoch=call.epoch, policy=policy, height=height, width=width)
    images = apply(images, drawn)
    return images.permute(0, 3, 1, 2).to(call.dtype, memory_format=call.memory_format).div_(255)


def apply(images: Tensor, drawn: Draws) -> Tensor:
    """What the draws make of uint8 images (m, H, W, 3), of the same dtype and shape.

    Erasing comes before the division by 255 here and after it in the paper, which is the same for black.
    """
    height, width = images.shape[1:3]
    rows, columns = drawn.cuts
    # An image that is sheared or rotated has no other operation: to move all the pixels at once keeps the order.
    source = positions(*matrix(drawn.kind, drawn.magnitude, drawn.vertical), height, width)
    images = look_up(images, drawn.flip, (place(rows, height), place(columns, width)), source)
    return erase(adjust(images, drawn.kind, drawn.magnitude), drawn.box)
