"""The model zoo's networks in plain PyTorch, and what people wrap them in before they save a state dict."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


class Block(nn.Module):
    """A pre-activation block of either network; the projection's name and input are the caller's."""

    def __init__(self, inside, outside, *, strides, projection, reads_input):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inside), nn.BatchNorm2d(outside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=strides[0], padding=1, bias=False)
        self.conv2 = nn.Conv2d(outside, outside, 3, stride=strides[1], padding=1, bias=False)
        stride = max(strides)
        self.projection = projection if stride != 1 or inside != outside else None
        self.reads_input = reads_input
        if self.projection:
            conv = nn.Conv2d(inside, outside, 1, stride=stride, bias=False)
            setattr(self, projection, conv if projection == "convShortcut" else nn.Sequential(conv))

    def forward(self, x):
        active = F.relu(self.bn1(x))
        shortcut = x
        if self.projection:
            shortcut = getattr(self, self.projection)(x if self.reads_input else active)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(active))))


class Stage(nn.Module):
    """RobustBench's group of blocks, which puts them under ``layer``."""

    def __init__(self, blocks):
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class PlainWRN(nn.Module):
    """WRN-10-1 as TRADES and RobustBench have it."""

    def __init__(self, num_classes=10, *, sub_block1=False):
        super().__init__()
        widths = (16, 16, 32, 64)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)

        def stage(number):
            strides = (1 if number == 1 else 2, 1)
            pair = widths[number - 1 : number + 1]
            return Stage([Block(*pair, strides=strides, projection="convShortcut", reads_input=False)])

        self.block1 = stage(1)
        if sub_block1:
            self.sub_block1 = stage(1)
        self.block2, self.block3 = stage(2), stage(3)
        self.bn1 = nn.BatchNorm2d(64)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class PlainPRN18(nn.Module):
    """PreActResNet-18; its projections read the raw input in the ISEAT authors' code and in Andriushchenko's."""

    def __init__(self, num_classes=10, *, reads_input=False):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        inside = 64
        for number, width in enumerate((64, 128, 256, 512), start=1):
            blocks = []
            for stride in (1 if number == 1 else 2, 1):
                kind = {"projection": "shortcut", "reads_input": reads_input}
                blocks.append(Block(inside, width, strides=(stride, 1), **kind))
                inside = width
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.bn = nn.BatchNorm2d(512)
        self.linear = nn.Linear(512, num_classes)

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))


class Norm(nn.Module):
    """(x - mean) / std by tensors of any names and shape; without ``kind`` they are no part of the state dict."""

    def __init__(self, names=("mean", "std"), *, shape=(1, 3, 1, 1), kind="buffer", mean=MEAN, std=STD):
        super().__init__()
        self.names = names
        for name, value in zip(names, (mean, std), strict=True):
            tensor = torch.tensor(value).reshape(shape)
            if kind == "parameter":
                setattr(self, name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor, persistent=kind == "buffer")

    def forward(self, x):
        mean, std = (getattr(self, name).reshape(-1, 1, 1) for name in self.names)
        return (x - mean) / std


class Wong(nn.Module):
    """A network that holds ``mu`` and ``sigma`` itself, as RobustBench's subclasses do."""

    def __new__(cls, net, **kind):
        norm = Norm(("mu", "sigma"), **kind)

        class Inside(type(net)):
            def forward(self, x):
                return super().forward((x - self.mu) / self.sigma)

        net.__class__ = Inside
        for name in norm.names:
            net.register_buffer(name, getattr(norm, name))
        return net


class Holder(nn.Module):
    """Passes images through its submodules named ``path``; holds whatever else it is given."""

    def __init__(self, *path, **parts):
        super().__init__()
        self.path = path
        for name, part in parts.items():
            if isinstance(part, torch.Tensor):
                self.register_buffer(name, part)
            else:
                self.add_module(name, part)

    def forward(self, x):
        for name in self.path:
            x = getattr(self, name)(x)
        return x


def robustness(net):
    """MadryLab's AttackerModel: its attacker registers network and normaliser again."""
    normalizer = Norm(("new_mean", "new_std"), shape=(3, 1, 1))
    attacker = Holder(model=net, normalize=normalizer)
    return Holder("normalizer", "model", normalizer=normalizer, model=net, attacker=attacker)


def sequential(net, **norm):
    """RobustBench's normalize_model."""
    return nn.Sequential(OrderedDict(normalize=Norm(**norm), model=net))


FORMS = {
    "bare": lambda net: net,
    "data parallel": nn.DataParallel,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "compiled": lambda net: Holder("_orig_mod", _orig_mod=net),
    "compiled in parallel": lambda net: nn.DataParallel(Holder("_orig_mod", _orig_mod=net)),
    "backbone": lambda net: nn.DataParallel(Holder("model", model=net)),
    "first of a Sequential": nn.Sequential,
    "criterion": lambda net: Holder("net", net=net, criterion=nn.Linear(2, 2), n_averaged=torch.tensor(3)),
    "the module twice": lambda net: Holder("net", net=net, model=net),
    "mu and sigma inside": Wong,
    "mu and sigma inside, in parallel": lambda net: nn.DataParallel(Wong(net)),
    "normalize_model": sequential,
    "normalize_model in parallel": lambda net: nn.DataParallel(sequential(net)),
    "Sequential of two": lambda net: nn.Sequential(Norm(shape=(3,)), net),
    "Sequential of two in parallel": lambda net: nn.DataParallel(nn.Sequential(Norm(shape=(3, 1, 1)), net)),
    "Sequential around parallel": lambda net: nn.Sequential(Norm(("means", "sds")), nn.DataParallel(net)),
    "parameters": lambda net: nn.Sequential(Norm(kind="parameter"), net),
    "one number for all": lambda net: sequential(net, shape=(1, 1, 1, 1), mean=0.5, std=0.25),
    "robustness": robustness,
    "robustness in parallel": lambda net: nn.DataParallel(robustness(net)),
}
"""Every way to hold a network that loads without a word from the caller."""

HARDCODED = {
    "in the forward": lambda net: nn.DataParallel(Holder("norm", "net", norm=Norm(kind="constant"), net=net)),
    "Sequential without buffers": lambda net: nn.Sequential(Norm(kind="constant"), net),
}
"""Files that don't hold the normalisation; the second kind shows that there is something."""


def trained(net):
    """In float64 and eval mode, with running statistics of some data."""
    net = net.double()
    with torch.no_grad():
        net(torch.rand(8, 3, 16, 16, dtype=torch.float64))
    return net.eval()
