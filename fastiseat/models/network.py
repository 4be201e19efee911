"""What all networks are, whatever they consist of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

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
        checkpoint_blocks: whether a pass with gradients keeps only the residual blocks' inputs and its backward
            computes the rest again: the same numbers, in less memory and more time. False at first; no part of the
            state dict. A block with hooks or other layers than it was built with runs as ever.
        normalize: what is done to the images first, part of the state dict; None in the networks built here.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.checkpoint_blocks = False
        self.normalize: Normalize | None = None

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
