"""The networks of RobustBench's model zoo, written from their description, with its keys and its forward."""

import torch.nn.functional as F
from torch import nn


def conv(in_width, width, stride, size=3):
    return nn.Conv2d(in_width, width, size, stride=stride, padding=size // 2, bias=False)


class WideBlock(nn.Module):
    """Where the width changes, BatchNorm and ReLU come before both ways."""

    def __init__(self, in_width, width, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(in_width), conv(in_width, width, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 1)
        if in_width != width:
            self.convShortcut = conv(in_width, width, stride, size=1)

    def forward(self, x):
        active = F.relu(self.bn1(x))
        shortcut = self.convShortcut(active) if hasattr(self, "convShortcut") else x
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(active))))


class WideStage(nn.Module):
    def __init__(self, depth, in_width, width, stride):
        super().__init__()
        rest = [WideBlock(width, width, 1) for _ in range(depth - 1)]
        self.layer = nn.Sequential(WideBlock(in_width, width, stride), *rest)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(self, depth=28, num_classes=10, widen_factor=10):
        super().__init__()
        number, widths = (depth - 4) // 6, [16, *(16 * widen_factor * factor for factor in (1, 2, 4))]
        self.conv1 = conv(3, 16, 1)
        self.block1 = WideStage(number, widths[0], widths[1], 1)
        self.block2 = WideStage(number, widths[1], widths[2], 2)
        self.block3 = WideStage(number, widths[2], widths[3], 2)
        self.bn1, self.fc = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], num_classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.avg_pool2d(F.relu(self.bn1(x)), 8).flatten(1))


class PreActBlock(nn.Module):
    """``out_shortcut`` has the shortcut's convolution read relu(bn1(x)) in place of x."""

    def __init__(self, in_width, width, stride, out_shortcut):
        super().__init__()
        self.out_shortcut = out_shortcut
        self.bn1, self.conv1 = nn.BatchNorm2d(in_width), conv(in_width, width, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 1)
        if stride != 1 or in_width != width:
            self.shortcut = nn.Sequential(conv(in_width, width, stride, size=1))

    def forward(self, x):
        active = F.relu(self.bn1(x))
        read = active if self.out_shortcut else x
        shortcut = self.shortcut(read) if hasattr(self, "shortcut") else x
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(active))))


class PreActResNet(nn.Module):
    def __init__(self, block, num_blocks, num_classes=10, bn_before_fc=False, out_shortcut=False):
        super().__init__()
        self.conv1, width = conv(3, 64, 1), 64
        for number, depth in enumerate(num_blocks, start=1):
            out_width, stride = 64 * 2 ** (number - 1), 1 if number == 1 else 2
            blocks = [block(width, out_width, stride, out_shortcut)]
            blocks += [block(out_width, out_width, 1, out_shortcut) for _ in range(depth - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            width = out_width
        if bn_before_fc:
            self.bn = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        if hasattr(self, "bn"):
            x = F.relu(self.bn(x))
        return self.linear(F.avg_pool2d(x, 4).flatten(1))


def initialized(model):
    """With the first weights that TRADES' code, RobustBench's source, gives a Wide ResNet."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            module.weight.data.normal_(0, (2.0 / fan_out) ** 0.5)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.data.fill_(1)
            module.bias.data.zero_()
        elif isinstance(module, nn.Linear):
            module.bias.data.zero_()
    return model
