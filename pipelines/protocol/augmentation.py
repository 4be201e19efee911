"""From the bytes of a batch to what the network reads: gathered, augmented, converted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastiseat.config import IDBH, Data
from fastiseat.errors import UserError
from fastiseat.fields import check_types, require, require_at_least
from fastiseat.kernels import augment, idbh
from fastiseat.kernels.augment import PadMode
from fastiseat.kernels.augment.arguments import check_padding
from fastiseat.kernels.idbh.arguments import check_shape

_HALF = 2**31


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What a training image goes through on its way to the network: a function of (seed, epoch, view, index) alone.

    ``dataclasses.replace(augmentation, epoch=3)`` is how an epoch begins.

    Attributes:
        seed: as :func:`fastiseat.kernels.augment` takes it; so are those that follow.
        epoch: a number, or an int64 tensor () on the images' device, which the host never looks at: a captured graph
            draws anew at each replay.
        flip: whether to mirror images.
        pad: pixels that are added on each side before a window is cut out.
        pad_mode: ``zero`` or ``reflect``.
        policy: one of :func:`fastiseat.kernels.idbh`, in place of flip and crop.
        view: 0 or 1, of methods that see each image twice. The kernels draw view 1 as epoch + 2**31, modulo 2**32:
            another counter, so independent of view 0 and of all its epochs below 2**31.
    """

    seed: int = 0
    epoch: int | Tensor = 0
    flip: bool = False
    pad: int = 0
    pad_mode: PadMode = "zero"
    policy: str | None = None
    view: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        require_at_least(0, "pad", self.pad)
        if not isinstance(self.epoch, Tensor):
            require(0 <= self.epoch < 2 * _HALF, "epoch", self.epoch, "must lie in 0 … 2**32 - 1")
        if self.view not in (0, 1):
            raise UserError(f"view={self.view}: an image has two views, 0 and 1; take one of them")

    @classmethod
    def of(cls, data: Data, *, seed: int) -> Augmentation:
        """What a run's settings ask for, at epoch 0."""
        if data.augment.startswith(IDBH):
            return cls(seed=seed, policy=data.augment.removeprefix(IDBH))
        return cls(seed=seed, flip=data.flip, pad=data.crop_padding, pad_mode=data.padding_mode)

    def check(self, shape: tuple[int, ...]) -> None:
        """:class:`UserError` for images of a ``shape`` (H, W, C) that it can't be applied to."""
        if self.policy is not None:
            check_shape(shape, self.policy)
        else:
            check_padding(shape, self.pad, self.pad_mode)

    def __call__(
        self, images: Tensor, index: Tensor, rows: Tensor | None = None, *, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """The samples as ``dtype`` (m, C, H, W), channels-last, in [0, 1]; of a batch's images, index and rows."""
        if self.policy is not None:
            # idbh has no rows.
            own = images if rows is None else images.index_select(0, rows)
            return idbh(own, index, seed=self.seed, epoch=self._epoch_word(), policy=self.policy, dtype=dtype)
        return augment(
            images,
            index,
            rows=rows,
            seed=self.seed,
            epoch=self._epoch_word(),
            flip=self.flip,
            pad=self.pad,
            pad_mode=self.pad_mode,
            dtype=dtype,
        )

    def _epoch_word(self) -> int | Tensor:
        """The epoch as the kernels count it: of view 1 in the other half of the 32-bit numbers."""
        if not self.view:
            return self.epoch
        moved = self.epoch + _HALF
        return moved if isinstance(moved, Tensor) else moved % (2 * _HALF)
