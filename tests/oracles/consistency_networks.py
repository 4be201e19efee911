"""Tack et al.'s networks, written from their description, with their keys and their forward."""

import torch.nn.functional as F
from torch import nn

from oracles.robustbench import PreActBlock, WideStage, conv


class PreActResNet18(nn.Module):
    """BatchNorm and ReLU after the first convolution and none before the head; on Tiny ImageNet its stride is 2."""

    def __init__(self, num_classes, stride=1):
        super().__init__()
        self.linear = nn.Linear(512, num_classes)
        self.conv1, self.bn1 = conv(3, 64, stride), nn.BatchNorm2d(64)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(PreActBlock(a, b, s, True), PreActBlock(b, b, 1, True))
            for a, b, s in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
        )

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(F.avg_pool2d(x, 4).flatten(1))


class WideResNet(nn.Module):
    """RobustBench's, whose head is called ``linear``."""

    def __init__(self, num_classes, depth, width):
        super().__init__()
        self.linear = nn.Linear(64 * width, num_classes)
        self.conv1 = conv(3, 16, 1)
        n = (depth - 4) // 6
        self.block1 = WideStage(n, 16, 16 * width, 1)
        self.block2 = WideStage(n, 16 * width, 32 * width, 2)
        self.block3 = WideStage(n, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.linear(F.avg_pool2d(F.relu(self.bn1(x)), 8).flatten(1))
