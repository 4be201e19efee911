"""What all networks are, whatever they consist of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from fastiseat.errors import UserError
from fastiseat.fusion.norm import Addends
from fastiseat.fusion.rewrite import has_hooks
from fastiseat.models.blocks import PreActBlock
from fastiseat.models.normalization import Normalize
from fastiseat.models.recompute import checkpointed
from fastiseat.names.networks import ModelSpec


class Network(nn.Module):
    """A classifier that knows what it is. Maps (N, C, H, W) images in [0, 1] to (N, classes) logits.

    Attributes:
        spec: architecture, variant, input channels and class count.
        normalize: what is done to the images first, part of the state dict; None in the networks built here.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self._checkpoint_blocks = False
        self.normalize: Normalize | None = None

    @property
    def checkpoint_blocks(self) -> bool:
        """Whether a pass with gradients keeps a residual block's input alone, and the backward computes the rest again.

        The same numbers, in less memory and more time. False at first; no part of the state dict. A block with hooks or
        other layers than it was built with runs as ever. :class:`UserError` where a network without such blocks is
        asked for it.
        """
        return self._checkpoint_blocks

    @checkpoint_blocks.setter
    def checkpoint_blocks(self, on: bool) -> None:
        if on and not any(type(module) is PreActBlock for module in self.modules()):
            raise UserError(
                f"checkpoint_blocks: {self.spec.arch} has no pre-activation blocks, whose inputs alone would be kept; "
                "leave it out: --amp and --clean-graph recompute need less memory too"
            )
        self._checkpoint_blocks = on

    def normalized(self, images: Tensor) -> Tensor:
        """What the first convolution reads."""
        return images if self.normalize is None else self.normalize(images)

    def through(self, blocks: nn.Sequential, addends: Addends) -> Addends:
        """What the blocks of a stage compute one after the other."""
        has_no_hooks = not has_hooks(blocks) and not _has_any_global_hook()
        if not (self.checkpoint_blocks and torch.is_grad_enabled() and has_no_hooks):
            return blocks(addends)  # type: ignore[no-any-return]
        for block in blocks:
            addends = checkpointed(block, addends) if type(block) is PreActBlock else block(addends)
        return addends
