"""IDBH, the diverse augmentation for adversarial training, on whole batches and drawn by counter."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.errors import UserError, unknown
from fastiseat.kernels.core.checks import check_numbers, check_result, check_tensors
from fastiseat.kernels.core.dispatch import Op
from fastiseat.kernels.idbh import reference
from fastiseat.kernels.idbh.policies import POLICIES, Policy

_OP = Op("idbh", reference.idbh)
_OPS = (_OP,)


def idbh(
    images: Tensor,
    index: Tensor,
    *,
    seed: int,
    epoch: int | Tensor,
    policy: str,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
) -> Tensor:
    """Mirror each image with probability ½, crop and shift it, change its colours or its shape, erase a box.

    Li and Spratling, ICLR 2023. CropShift cuts s pixels off in all and leaves the rest, black around it, at a random
    place; ColorShape applies exactly one of saturation, brightness, contrast, sharpness, autocontrast, equalize,
    shear and rotation, to the bit as Pillow does and torchvision calls it; RandomErasing is torchvision's.
    ``policies.py`` has the probabilities and ranges.

    A sample's fate is a function of (seed, epoch, index) and the policy alone, whatever batch it comes in. Its words
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

    Args:
        images: uint8 (m, H, W, 3), red, green and blue; H and W at least the ``hi`` of the policy's CropShift.
        index: int64 (m,), each sample's place in the data set, on the device of ``images``.
        seed: 0 … 2**64 - 1.
        epoch: 0 … 2**32 - 1; as an integer tensor, 0-dimensional and on the device of ``images``, it is not
            looked at, and its low 32 bits count.
        policy: a name in ``POLICIES``: ``"cifar10-weak"``, ``"cifar10-strong"`` or ``"svhn"``.
        dtype: float32, float64, bfloat16 or float16.
        memory_format: ``torch.channels_last`` or ``torch.contiguous_format``.

    Returns:
        (m, 3, H, W) of ``dtype`` in [0, 1]; no argument is changed.

    Raises:
        UserError: for an argument that is not as described.
    """
    if policy not in POLICIES:
        raise unknown("policy", policy, POLICIES)
    check_tensors(images, index, epoch)
    check_numbers(seed, epoch)
    _check_shape(images, policy, POLICIES[policy])
    check_result(dtype, memory_format)
    return _OP(
        images,
        index,
        seed=seed,
        epoch=epoch,
        policy=POLICIES[policy],
        dtype=dtype,
        memory_format=memory_format,
    )


def _check_shape(images: Tensor, name: str, policy: Policy) -> None:
    _, height, width, channels = images.shape
    if channels != 3:
        raise UserError(
            f"images have {channels} channels; policy={name} changes colours and needs 3, red, green and blue: "
            "repeat a grey channel three times, or take augment"
        )
    _, needed = policy.crop_shift
    if min(height, width) < needed:
        raise UserError(
            f"images are {height}×{width} pixels; policy={name} cuts off up to {needed - 1} of a side and needs "
            f"{needed}: enlarge them, or take augment"
        )
