"""The parts of both residual networks (He et al., 2016, "Identity Mappings in Deep Residual Networks")."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from fastiseat.fusion.norm import Addends, BatchNormReLU
from fastiseat.names.networks import FORMS, Variant


def conv3x3(in_width: int, width: int, *, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias whose padding keeps the image size at stride 1."""
    return nn.Conv2d(in_width, width, kernel_size=3, stride=stride, padding=1, bias=False)


class PreActBlock(nn.Module):
    """bn1-relu-conv1-bn2-relu-conv2 plus a shortcut: (N, in_width, H, W) to (N, width, H/s, W/s).

    Input and output are sums still to be taken: a BatchNorm follows each, which adds in the same sweep.

    Where the block changes width or size the shortcut is a 1x1 convolution of stride s, the product of the
    two convolutions' strides. It reads the raw input or relu(bn1(input)), as the variant has it. Elsewhere it is
    the identity on the raw input in all variants.
    """

    def __init__(self, in_width: int, width: int, *, strides: tuple[int, int], variant: Variant) -> None:
        super().__init__()
        self.bn1 = BatchNormReLU(in_width)
        self.conv1 = conv3x3(in_width, width, stride=strides[0])
        self.bn2 = BatchNormReLU(width)
        self.conv2 = conv3x3(width, width, stride=strides[1])
        stride = strides[0] * strides[1]
        is_identity = stride == 1 and in_width == width
        # An empty Sequential is the identity and adds no key to the state dict.
        self.shortcut = nn.Sequential()
        if not is_identity:
            self.shortcut.append(nn.Conv2d(in_width, width, kernel_size=1, stride=stride, bias=False))
        self.shortcut_reads_input = is_identity or FORMS[variant].shortcut_reads_input

    def forward(self, addends: Addends) -> Addends:
        """(residual, shortcut), whose sum is the block's output for the sum of ``addends``."""
        x, active = self.bn1(*addends)
        _, middle = self.bn2(self.conv1(active))
        return self.conv2(middle), self.shortcut(x if self.shortcut_reads_input else active)


def stage(
    in_width: int, width: int, *, depth: int, strides: tuple[int, int], variant: Variant, prefix: str = ""
) -> nn.Sequential:
    """``depth`` blocks named ``{prefix}0``, ``{prefix}1``, ...; only the first widens and strides."""
    blocks = OrderedDict[str, nn.Module]()
    blocks[f"{prefix}0"] = PreActBlock(in_width, width, strides=strides, variant=variant)
    for index in range(1, depth):
        blocks[f"{prefix}{index}"] = PreActBlock(width, width, strides=(1, 1), variant=variant)
    return nn.Sequential(blocks)


def summed(addends: Addends) -> Tensor:
    """The sum of what no BatchNorm adds."""
    a, b = addends
    return a if b is None else a + b


def classify(head: nn.Linear, x: Tensor) -> Tensor:
    """Average each channel, then the head: (N, C, H, W) of any size to logits (N, classes).

    In the head's own dtype under autocast too: logits rounded to half precision change the ranks of ISEAT's weights.
    """
    features = x.mean(dim=(2, 3), dtype=head.weight.dtype)
    if features.is_meta:  # autocast knows no such device
        return head(features)  # type: ignore[no-any-return]
    with torch.autocast(features.device.type, enabled=False):
        return head(features)  # type: ignore[no-any-return]
