"""IDBH, the diverse augmentation for adversarial training, on whole batches and drawn by counter."""

from __future__ import annotations

from torch import Tensor

from fastiseat.kernels.core.dispatch import Op
from fastiseat.kernels.core.signature import takes
from fastiseat.kernels.idbh import reference
from fastiseat.kernels.idbh.arguments import Arguments, check

_OP = Op("idbh", Arguments, reference.idbh)
_OPS = (_OP,)


@takes(Arguments)
def idbh(call: Arguments) -> Tensor:
    """Mirror each image with probability ½, crop and shift it, change its colours or its shape, erase a box.

    Li and Spratling, ICLR 2023. CropShift cuts s pixels off in all and leaves the rest, black around it, at a random
    place; ColorShape applies exactly one of saturation, brightness, contrast, sharpness, autocontrast, equalize,
    shear and rotation, to the bit as Pillow does and torchvision calls it; RandomErasing is torchvision's.
    ``policies.py`` has the probabilities and ranges.

    A sample's draws are a function of (seed, epoch, index) and the policy alone, whatever batch it comes in. Its words
    come in blocks of four, the block's number b in the high half of the counter's last word:

        ``philox(counter=(index & M, index >> 32, epoch, Stream.IDBH + (b << 16)), key=(seed & M, seed >> 32))``

    with M = 2**32 - 1 and ``Stream.IDBH`` = 2. A word w is below n as ``(w · n) >> 32``, between lo and hi as
    ``w / 2**32 · (hi - lo) + lo`` in float64, and a coin as its top bit.

    - b = 0: mirrored (coin); s - lo (below hi - lo); the columns cut off (below s + 1), s less that many the rows;
      erased from, if less than ``round(probability · 2**32)``.
    - b = 1: the crop's left, its top, the window's left, its top: each below 1 + what is cut off along its axis.
    - b = 2: the operation, whose part of 0 … 2**32 - 1 the word lies in, in the order of ``Kind``; its magnitude
      (between, rounded to float32; degrees of a rotation by below); negative shear or rotation (coin); shear along
      y rather than x (coin).
    - b = 3 … 12, one for each try at a box: area (between), log aspect (between), top and left (below).

    Returns:
        (m, 3, H, W) of ``dtype`` in [0, 1]; no argument is changed.

    Raises:
        UserError: for an argument that is not as described.
    """
    check(call)
    return _OP(call)
