"""Residual blocks of which a pass keeps their input alone: the backward computes the rest anew (Chen et al., 2016)."""

from __future__ import annotations

from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastiseat.fusion.norm import Addends, BatchNormReLU, norm_tensors, normalise, remember
from fastiseat.fusion.rewrite import has_hooks
from fastiseat.models.blocks import PreActBlock

# And a convolution in the shortcut, or none.
_PARTS = [BatchNormReLU, nn.Conv2d, BatchNormReLU, nn.Conv2d, nn.Sequential]


def checkpointed(block: PreActBlock, addends: Addends) -> Addends:
    """``block(addends)``, from which autograd keeps the sum of ``addends`` and nothing else of its size.

    The backward computes again what the gradients read, by this forward's tensors, mode and ops: gradients are equal
    to the last bit where the ops are deterministic. No statistics are written then. The first BatchNorm keeps the sum
    and no more as it is: what is computed again begins after it, so that the two addends need not be kept. (Where the
    reference serves it, its ReLU keeps the result besides.)
    """
    if not _is_as_built(block):
        return block(addends)  # type: ignore[no-any-return]
    s, *fresh = block.bn1(*addends)
    rest = _Rest(block, fresh)
    residual, shortcut, *batch = checkpoint(
        rest, s, *rest.tensors(), use_reentrant=False, preserve_rng_state=False
    )
    if batch:
        remember(block.bn2, *batch)
    return residual, shortcut


def _is_as_built(block: PreActBlock) -> bool:
    """Whether it is tensors and nothing more: a hook or a layer of another kind may do what must not be done twice."""
    own, *modules = block.modules()
    types = [type(module) for module in modules]
    return (
        types in (_PARTS, [*_PARTS, nn.Conv2d])
        and not any(map(has_hooks, [own, *modules]))
        and all(conv.bias is None for conv in _convolutions(block))
    )


def _convolutions(block: PreActBlock) -> list[nn.Conv2d]:
    return [block.conv1, block.conv2, *[conv for conv in block.shortcut if isinstance(conv, nn.Conv2d)]]


class _Rest:
    """All of a block after its first BatchNorm, as a function of tensors: (s, ...) to (residual, shortcut, ...).

    The block gives numbers such as strides alone: by the time of the backward its tensors and mode may be others.
    """

    def __init__(self, block: PreActBlock, fresh: list[Tensor]) -> None:
        self.block, self.convolutions = block, _convolutions(block)
        # What the first BatchNorm has just computed: of use once.
        self.fresh, self.requires_grad = fresh, fresh[0].requires_grad
        self.sizes = [len(self.convolutions), len(norm_tensors(block.bn1)), len(norm_tensors(block.bn2))]

    def tensors(self) -> list[Tensor]:
        """Of the block as it is now: what a call takes after s."""
        weights = [conv.weight for conv in self.convolutions]
        return [*weights, *norm_tensors(self.block.bn1), *norm_tensors(self.block.bn2)]

    def __call__(self, s: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """And the second BatchNorm's batch statistics, in train mode."""
        given = iter(tensors)
        weights, first, second = (tuple(islice(given, size)) for size in self.sizes)
        conv1, conv2, *shortcuts = [
            partial(conv._conv_forward, weight=weight, bias=None)
            for conv, weight in zip(self.convolutions, weights, strict=True)
        ]
        active = self._active(s, first)
        _, middle, *batch = normalise(conv1(active), None, second, eps=self.block.bn2.eps)
        # Before conv2, which a recomputation then need not run: it ends with the last tensor that autograd reads.
        shortcut = s if self.block.shortcut_reads_input else active
        for conv in shortcuts:
            shortcut = conv(shortcut)
        return conv2(middle), shortcut, *batch

    def _active(self, s: Tensor, first: tuple[Tensor, ...]) -> Tensor:
        if torch.compiler.is_compiling():  # one graph has both directions, and nothing happens in it twice
            return self.fresh[0]
        if self.fresh:
            return self.fresh.pop()
        with torch.no_grad():
            _, active, *_ = normalise(s, None, first, eps=self.block.bn1.eps)
        return active.requires_grad_(self.requires_grad)
