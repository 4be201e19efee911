"""The definition of ``augment``: whole batches in plain PyTorch, on any device, with nothing read back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastiseat.errors import unknown
from fastiseat.kernels.augment.arguments import Arguments
from fastiseat.kernels.core.philox import Stream, Word, below, philox


def augment(call: Arguments) -> Tensor:
    """``fastiseat.kernels.augment`` in plain PyTorch."""
    images = call.images if call.rows is None else call.images.index_select(0, call.rows)
    if images.numel() and (call.flip or call.pad):
        flips, top, left = draws(call.index, seed=call.seed, epoch=call.epoch, pad=call.pad)
        if call.flip:
            images = _flip(images, flips)
        if call.pad:
            images = _crop(_pad(images, call.pad, call.pad_mode), top, left, call.pad)
    return images.permute(0, 3, 1, 2).to(call.dtype, memory_format=call.memory_format).div_(255)


def draws(index: Tensor, *, seed: int, epoch: Word, pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """What becomes of each sample: whether it is mirrored (0 or 1), and its window's top and left, 0 … 2·pad."""
    key, counter = (seed, seed >> 32), (index, index >> 32, epoch, Stream.AUGMENT)
    flip_word, top_word, left_word, _ = philox(counter, key)
    return flip_word >> 31, below(top_word, 2 * pad + 1), below(left_word, 2 * pad + 1)


def _flip(images: Tensor, flips: Tensor) -> Tensor:
    num_images = len(images)
    # Both versions are made and whole images picked: torch.where on uint8 takes longer than all of this.
    both = torch.stack((images, images.flip(2))).flatten(0, 1)
    return both.index_select(0, torch.arange(num_images, device=images.device) + num_images * flips)


def _pad(images: Tensor, pad: int, mode: str) -> Tensor:
    match mode:
        case "zero":
            return F.pad(images, (0, 0, pad, pad, pad, pad))
        case "reflect":
            return _reflected(images, pad)
        case other:
            raise unknown("pad_mode", other, ("zero", "reflect"))


def _reflected(images: Tensor, pad: int) -> Tensor:
    for dim in (1, 2):  # F.pad does not reflect uint8
        before = images.narrow(dim, 1, pad).flip(dim)
        after = images.narrow(dim, images.shape[dim] - 1 - pad, pad).flip(dim)
        images = torch.cat((before, images, after), dim)
    return images


def _crop(padded: Tensor, top: Tensor, left: Tensor, pad: int) -> Tensor:
    """A window of each image, given its first row and column; ``pad`` less on every side."""
    num_images, padded_height, padded_width, channels = padded.shape
    height, width = padded_height - 2 * pad, padded_width - 2 * pad
    # A view: every run of `width` pixels, wherever it begins. A window is `height` of them, copied as blocks.
    runs = padded.reshape(-1).unfold(0, width * channels, channels)
    row = torch.arange(num_images, device=padded.device) * padded_height + top
    rows = row[:, None] + torch.arange(height, device=padded.device)
    first_pixel = rows * padded_width + left[:, None]
    return runs.index_select(0, first_pixel.flatten()).view(num_images, height, width, channels)
