"""Pre-activation residual networks in plain PyTorch, for the weights that fastiseat exports. Needs torch alone.

Wide ResNets are the "released" ones of the ISEAT authors: a block strides in its second convolution, and shortcut
convolutions read the block's raw input. Those of RobustBench differ in both. PreActResNets are of any variant: in
"released" ones shortcut convolutions read the raw input, "no-bn" ones have no BatchNorm after the last block, and
"consistency" ones have theirs after the first convolution instead. MIT License, the fastiseat authors.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

SIZES = {"prn18": ((2, 2, 2, 2), (64, 128, 256, 512)), "small": ((1, 1, 1), (16, 32, 64))}

# Whether shortcut convolutions read a block's raw input, whether BatchNorm and ReLU follow the first convolution, that
# convolution's stride, and whether BatchNorm and ReLU follow the last block.
VARIANTS = {
    "released": (True, False, 1, True),
    "common": (False, False, 1, True),
    "released-no-bn": (True, False, 1, False),
    "common-no-bn": (False, False, 1, False),
    "consistency": (False, True, 1, False),
    "consistency-stride-2": (False, True, 2, False),
}


class Block(nn.Module):
    """bn1-relu-conv1-bn2-relu-conv2 plus a shortcut."""

    def __init__(self, in_width: int, width: int, strides: tuple[int, int], reads_input: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=strides[0], padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=strides[1], padding=1, bias=False)
        stride = strides[0] * strides[1]
        self.shortcut = nn.Sequential()
        self.reads_input = stride == 1 and in_width == width
        if not self.reads_input:
            self.shortcut.append(nn.Conv2d(in_width, width, 1, stride=stride, bias=False))
            self.reads_input = reads_input

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_width, H, W) to (N, width, H/s, W/s)."""
        active = F.relu(self.bn1(x))
        shortcut = self.shortcut(x if self.reads_input else active)
        out: torch.Tensor = self.conv2(F.relu(self.bn2(self.conv1(active)))) + shortcut
        return out


class ResidualNetwork(nn.Module):
    """Stem, stages of blocks, global average pool, linear head: images in [0, 1] to logits.

    BatchNorm and ReLU follow the stem, or the last block, or neither.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        stem: int,
        stages: list[tuple[int, int, tuple[int, int]]],
        reads_input: bool,
        names: tuple[str, str, str],
        stem_norm: bool,
        stem_stride: int,
        last_norm: bool,
    ) -> None:
        super().__init__()
        prefix, last, head = names
        self.conv1 = nn.Conv2d(in_channels, stem, 3, stride=stem_stride, padding=1, bias=False)
        self.order = ["conv1"]
        if stem_norm:
            self._add_norm("bn1", stem)
        in_width = stem
        for number, (depth, width, strides) in enumerate(stages, start=1):
            blocks = OrderedDict[str, nn.Module]()
            for index in range(depth):
                blocks[f"{prefix}{index}"] = Block(in_width, width, (1, 1) if index else strides, reads_input)
                in_width = width
            self.add_module(f"layer{number}", nn.Sequential(blocks))
            self.order.append(f"layer{number}")
        if last_norm:
            self._add_norm(last, in_width)
        self.add_module(head, nn.Linear(in_width, num_classes))
        self.head = head

    def _add_norm(self, name: str, width: int) -> None:
        self.add_module(name, nn.BatchNorm2d(width))
        self.order.append(name)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, classes)."""
        x = images
        for name in self.order:
            x = self.get_submodule(name)(x)
            x = F.relu(x) if name.startswith("bn") else x
        out: torch.Tensor = self.get_submodule(self.head)(x.mean(dim=(2, 3)))
        return out


def is_here(arch: str, variant: str) -> bool:
    """Whether :func:`network` has it."""
    return arch in SIZES or (arch.startswith("wrn-") and variant == "released")


def network(arch: str, variant: str, in_channels: int, num_classes: int) -> ResidualNetwork:
    """``prn18``, ``small`` of any variant, or ``wrn-DEPTH-WIDTH`` of the released one."""
    reads_input, stem_norm, stem_stride, last_norm = VARIANTS[variant]
    if arch in SIZES:
        stages = [
            (n, width, (1 if i == 0 else 2, 1)) for i, (n, width) in enumerate(zip(*SIZES[arch], strict=True))
        ]
        stem, names = stages[0][1], ("", "bn", "linear")
    else:
        depth, width = map(int, arch.split("-")[1:])
        stages = [((depth - 4) // 6, 16 * width * 2**i, (1, 1 if i == 0 else 2)) for i in range(3)]
        stem, names = 16, ("block", "bn1", "fc0")
    return ResidualNetwork(
        in_channels,
        num_classes,
        stem=stem,
        stages=stages,
        reads_input=reads_input,
        names=names,
        stem_norm=stem_norm,
        stem_stride=stem_stride,
        last_norm=last_norm,
    )
