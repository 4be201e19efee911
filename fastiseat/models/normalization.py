"""What a network subtracts from images and divides them by before anything else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastiseat.errors import UserError

_SMALLEST_STD = 1e-3
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Normalization:
    """(x - mean) / std for images in [0, 1], a number for each colour plane.

    Attributes:
        mean: each from 0 to 1.
        std: each from 0.001 to 1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, values, least in (("mean", self.mean, 0.0), ("std", self.std, _SMALLEST_STD)):
            wrong = [value for value in values if not (math.isfinite(value) and least <= value <= 1)]
            if wrong:
                raise UserError(
                    f"{name}={wrong[0]:g}: it must lie between {least:g} and 1, for images in [0, 1]; of pixels up "
                    "to 255 take a 255th"
                )

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return not any(self.mean) and all(value == 1 for value in self.std)

    def agrees(self, other: Normalization) -> bool:
        """Whether both are the same but for a float32's rounding."""
        pairs = zip((*self.mean, *self.std), (*other.mean, *other.std), strict=True)
        return all(math.isclose(one, another, abs_tol=1e-6) for one, another in pairs)

    def __str__(self) -> str:
        mean, std = (", ".join(f"{value:.6g}" for value in values) for values in (self.mean, self.std))
        return f"mean=({mean}), std=({std})"


class Normalize(nn.Module):
    """A :class:`Normalization` as a network's first layer; its numbers are buffers of shape (C,).

    Args:
        normalization: what it does.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(normalization.mean, dtype=torch.float64))
        self.register_buffer("std", torch.tensor(normalization.std, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape and dtype."""
        mean, std = (tensor.to(images.dtype)[:, None, None] for tensor in (self.mean, self.std))
        return (images - mean) / std


def stated(
    mean: float | Sequence[float] | None, std: float | Sequence[float] | None, *, in_channels: int
) -> Normalization | None:
    """What a caller says, one number for all colour planes or a number for each; None where both are None.

    Raises:
        UserError: one without the other, another count than ``in_channels``, values out of range.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise UserError(f"{'std' if mean is None else 'mean'} alone says no normalisation; say mean= and std=")
    return Normalization(_each("mean", mean, in_channels), _each("std", std, in_channels))


def _each(name: str, value: float | Sequence[float], in_channels: int) -> tuple[float, ...]:
    numbers = (value,) if isinstance(value, float | int) else tuple(value)
    if len(numbers) not in (1, in_channels):
        raise UserError(f"{name} has {len(numbers)} numbers; give one, or one for each of {in_channels} channels")
    return tuple(map(float, numbers * in_channels if len(numbers) == 1 else numbers))


def held(mean: Tensor, std: Tensor, *, in_channels: int) -> Normalization:
    """What two tensors of a file say: of shape (), (C,), (C, 1, 1) or (1, C, 1, 1), where C may be 1 for all.

    Raises:
        UserError: another shape, values out of range.
    """
    for name, tensor in (("mean", mean), ("std", std)):
        if tensor.dtype not in _DTYPES:
            raise UserError(
                f"its normalisation's {name} is of {tensor.dtype}; give a file with floating-point ones"
            )
        shapes = [shape for c in (1, in_channels) for shape in ((), (c,), (c, 1, 1), (1, c, 1, 1))]
        if tuple(tensor.shape) not in shapes:
            raise UserError(
                f"its normalisation's {name} has shape {tuple(tensor.shape)}, for images of {in_channels} channels; "
                "give a file with one number for each"
            )
    try:
        numbers = [tensor.double().flatten().tolist() for tensor in (mean, std)]
        return Normalization(_each("mean", numbers[0], in_channels), _each("std", numbers[1], in_channels))
    except UserError as error:
        raise UserError(f"its normalisation: {error}") from None
