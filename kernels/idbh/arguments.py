"""What ``idbh`` takes."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from fastiseat.errors import UserError, unknown
from fastiseat.kernels.core.checks import check_numbers, check_result, check_tensors
from fastiseat.kernels.idbh.policies import POLICIES


@dataclass(frozen=True, slots=True)
class Arguments:
    """What :func:`idbh` takes.

    Args:
        images: uint8 (m, H, W, 3), red, green and blue; H and W at least the ``hi`` of the policy's CropShift.
        index: int64 (m,), each sample's place in the data set, on the device of ``images``.
        seed: 0 … 2**64 - 1.
        epoch: 0 … 2**32 - 1; as an integer tensor, 0-dimensional and on the device of ``images``, it is not
            looked at, and its low 32 bits count.
        policy: a name in ``POLICIES``: ``"cifar10-weak"``, ``"cifar10-strong"`` or ``"svhn"``.
        dtype: float32, float64, bfloat16 or float16.
        memory_format: ``torch.channels_last`` or ``torch.contiguous_format``.
    """

    images: Tensor
    index: Tensor
    _: KW_ONLY
    seed: int
    epoch: int | Tensor
    policy: str
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.channels_last


def check(call: Arguments) -> None:
    """Raise UserError for an argument that is not as described."""
    if call.policy not in POLICIES:
        raise unknown("policy", call.policy, POLICIES)
    check_tensors(call.images, call.index, call.epoch)
    check_numbers(call.seed, call.epoch)
    check_shape(tuple(call.images.shape[1:]), call.policy)
    check_result(call.dtype, call.memory_format)


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Raise UserError where images of ``shape`` (H, W, C) are not such as the policy ``name`` was made for."""
    height, width, channels = shape
    if channels != 3:
        raise UserError(
            f"images have {channels} channels; policy={name} changes colours and needs 3, red, green and blue: "
            "repeat a grey channel three times, or take augment"
        )
    _, needed = POLICIES[name].crop_shift
    if min(height, width) < needed:
        raise UserError(
            f"images are {height}×{width} pixels; policy={name} cuts off up to {needed - 1} of a side and needs "
            f"{needed}: enlarge them, or take augment"
        )
