"""Which tensor an element of a flat buffer belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 1024
"""Elements in a block; no block holds parts of two tensors. In every dtype a multiple of 256 bytes."""


class Segments(NamedTuple):
    """The table of S tensors in a flat buffer of B blocks; all on the buffer's device.

    A tensor begins with a block, and after its end the block is padded. The padding holds zeros in every buffer,
    so that sums may run over it and updates leave it.
    """

    block_segment: Tensor
    """int32 (B,): the tensor that each block is of."""
    first_block: Tensor
    """int32 (S + 1,): where each tensor's blocks begin; after the last, B."""
    perturbed: Tensor
    """bool (S,): whether adversarial weight perturbation moves it."""

    @property
    def num_elements(self) -> int:
        """P, the length of the buffers."""
        return len(self.block_segment) * BLOCK

    @classmethod
    def of(
        cls, sizes: Sequence[int], *, perturbed: Sequence[bool], device: torch.device | str = "cpu"
    ) -> Segments:
        """The table of tensors of these numbers of elements, one after the other."""
        blocks = torch.tensor([-(-size // BLOCK) for size in sizes], dtype=torch.int64)
        first_block = torch.cat((torch.zeros(1, dtype=torch.int64), blocks.cumsum(0)))
        return cls(
            block_segment=torch.arange(len(sizes), dtype=torch.int32).repeat_interleave(blocks).to(device),
            first_block=first_block.to(device, torch.int32),
            perturbed=torch.tensor(perturbed, dtype=torch.bool).to(device),
        )
