"""What becomes of each sample: every draw of IDBH, made at once from (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from fastiseat.kernels.core.philox import Stream, Word, below, between, philox
from fastiseat.kernels.idbh import crop_shift, erasing
from fastiseat.kernels.idbh.crop_shift import Cut
from fastiseat.kernels.idbh.erasing import Box
from fastiseat.kernels.idbh.policies import Choice, Kind, Policy

_BLOCKS = 3 + erasing.TRIES
_BLOCK_SHIFT = 16


class Draws(NamedTuple):
    """One batch's draws, each of (m,) values."""

    flip: Tensor
    """int64, 1 where the image is mirrored."""
    cuts: tuple[Cut, Cut]
    """CropShift's, along rows and columns."""
    kind: Tensor
    """int64, the operation of ColorShape: values of :class:`Kind`."""
    magnitude: Tensor
    """float64: a factor, signed radians or signed degrees; 0 for kinds without."""
    vertical: Tensor
    """bool, whether a shear is along y."""
    box: Box
    """What is erased."""


def draw(index: Tensor, *, seed: int, epoch: Word, policy: Policy, height: int, width: int) -> Draws:
    """The draws of samples of ``height`` × ``width`` pixels; the layout of the words is told at ``idbh``."""
    words = _words(index, seed, epoch)
    flip, size, share, gate = words[0]
    kind_word, magnitude_word, sign, axis = words[2]
    kind = _kind(kind_word, policy.color_shape)
    return Draws(
        flip=flip >> 31,
        cuts=crop_shift.draw(size, share, words[1], *policy.crop_shift),
        kind=kind,
        magnitude=_magnitude(kind, magnitude_word, sign >> 31, policy.color_shape),
        vertical=axis >> 31 == 1,
        box=erasing.draw(gate, words[3:], policy, height, width),
    )


def _words(index: Tensor, seed: int, epoch: Word) -> Tensor:
    """(blocks, 4, m): every block a counter of its own, all of them computed in one go."""
    block = torch.arange(_BLOCKS, device=index.device)[:, None] << _BLOCK_SHIFT
    counter = (index, index >> 32, epoch, block + Stream.IDBH)
    return torch.stack(philox(counter, (seed, seed >> 32)), dim=1)


def _kind(word: Tensor, choices: Mapping[Kind, Choice]) -> Tensor:
    """The kind in whose part of 0 … 2**32 - 1 the word lies, the parts laid out in the order of the kinds."""
    *ends, _ = accumulate(choice.probability for choice in choices.values())
    kind = torch.zeros_like(word)
    for end in ends:
        kind += word >= round(end * 2**32)
    return kind


def _magnitude(kind: Tensor, word: Tensor, negative: Tensor, choices: Mapping[Kind, Choice]) -> Tensor:
    magnitude = torch.zeros_like(word, dtype=torch.float64)
    for this, (_, low, high) in choices.items():
        if this == Kind.ROTATE:
            drawn = (below(word, int(high - low) + 1) + int(low)).double()
        else:
            drawn = between(word, low, high).float().double()  # float32, as the official code draws it
        magnitude = torch.where(kind == this.value, drawn, magnitude)
    return torch.where(kind >= Kind.SHEAR.value, magnitude * (1 - 2 * negative), magnitude)
