"""The networks as people write them: ``nn.BatchNorm2d``, ``torch.relu`` and ``+``, one after the other.

State-dict keys and the order of parameters are those of the networks that :func:`fastiseat.models.build` builds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastiseat.names.networks import FORMS, ModelSpec


class PreActBlock(nn.Module):
    """BatchNorm, ReLU, convolution, twice, and a shortcut."""

    def __init__(self, in_planes: int, planes: int, strides: tuple[int, int], reads_input: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=strides[0], padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=strides[1], padding=1, bias=False)
        stride = strides[0] * strides[1]
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.shortcut.append(nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False))
        self.reads_input = reads_input

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both paths."""
        out = torch.relu(self.bn1(x))
        shortcut = self.shortcut(x if self.reads_input or len(self.shortcut) == 0 else out)
        out = self.conv1(out)
        out = self.conv2(torch.relu(self.bn2(out)))
        return out + shortcut  # type: ignore[no-any-return]


def _stage(
    in_planes: int, planes: int, depth: int, strides: tuple[int, int], reads_input: bool, name: str
) -> nn.Sequential:
    blocks = OrderedDict({f"{name}0": PreActBlock(in_planes, planes, strides, reads_input)})
    for i in range(1, depth):
        blocks[f"{name}{i}"] = PreActBlock(planes, planes, (1, 1), reads_input)
    return nn.Sequential(blocks)  # type: ignore[arg-type]


class PreActResNet(nn.Module):
    """PreActResNet-18, or another depth and width."""

    def __init__(self, spec: ModelSpec, depths: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        form = FORMS[spec.variant]
        self.conv1 = nn.Conv2d(spec.in_channels, widths[0], 3, stride=form.stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0]) if form.stem_norm else None
        in_planes, self.num_stages = widths[0], len(depths)
        for i, (depth, planes) in enumerate(zip(depths, widths, strict=True), start=1):
            strides = (1 if i == 1 else 2, 1)
            self.add_module(
                f"layer{i}", _stage(in_planes, planes, depth, strides, form.shortcut_reads_input, name="")
            )
            in_planes = planes
        self.bn = nn.BatchNorm2d(in_planes) if form.last_norm else None
        self.linear = nn.Linear(in_planes, spec.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = _normalised(self.conv1(x), self.bn1)
        for i in range(1, self.num_stages + 1):
            x = self.get_submodule(f"layer{i}")(x)
        return _pooled(_normalised(x, self.bn), self.linear)


class WideResNet(nn.Module):
    """WRN-depth-width."""

    def __init__(self, spec: ModelSpec, depth: int, width: int) -> None:
        super().__init__()
        form, n = FORMS[spec.variant], (depth - 4) // 6
        reads_input, halve = form.shortcut_reads_input, form.wide_strides
        assert halve is not None
        self.conv1 = nn.Conv2d(spec.in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(16, 16 * width, n, (1, 1), reads_input, name="block")
        self.layer2 = _stage(16 * width, 32 * width, n, halve, reads_input, name="block")
        self.layer3 = _stage(32 * width, 64 * width, n, halve, reads_input, name="block")
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc0 = nn.Linear(64 * width, spec.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return _pooled(torch.relu(self.bn1(x)), self.fc0)


def _normalised(x: Tensor, bn: nn.BatchNorm2d | None) -> Tensor:
    return x if bn is None else torch.relu(bn(x))


def _pooled(x: Tensor, head: nn.Linear) -> Tensor:
    # Not in half precision under autocast: both sides of a comparison must rank their samples alike.
    x = x.mean(dim=(2, 3), dtype=head.weight.dtype)
    with torch.autocast(x.device.type, enabled=False):
        return head(x)  # type: ignore[no-any-return]
