"""Networks for digits: plain ones, and ones that hide their gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastiseat.pipelines.protocol.base import Split

Change = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    return x


class Masked(nn.Module):
    """``network`` with a change of its images, and one of its logits."""

    def __init__(self, network: nn.Module, *, images: Change = identity, logits: Change = identity) -> None:
        super().__init__()
        self.network, self.images, self.logits = network, images, logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.network(self.images(x)))


class Misled(torch.autograd.Function):
    """The same images, and the gradient of their mirror images."""

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.clone()

    @staticmethod
    def backward(_ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.flip(3)


class Reversed(torch.autograd.Function):
    """The same images, and the gradient that leads down."""

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.clone()

    @staticmethod
    def backward(_ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -gradient


def levels(x: Tensor) -> Tensor:
    """Five shades of grey: steps without a slope."""
    return torch.round(x * 4) / 4


def ripples(x: Tensor) -> Tensor:
    """Slopes that tell nothing about where a step leads."""
    return x + 0.05 * torch.sin(100 * x)


def trained(network: nn.Module, split: Split, *, eps: float, epochs: int) -> nn.Module:
    """In eval mode, by Adam on images that five steps of PGD have moved; ``eps`` 0 is without an attack."""
    x = torch.from_numpy(split.images).permute(0, 3, 1, 2) / 255
    y = torch.from_numpy(split.labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(100):
            found = attacked(network, x[rows], y[rows], eps) if eps else x[rows]
            optimizer.zero_grad()
            F.cross_entropy(network(found), y[rows]).backward()
            optimizer.step()
    return network.eval()


def attacked(network: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    found = x
    for _ in range(5):
        found = found.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(found), y), found)
        found = torch.clamp(found + eps / 3 * gradient.sign(), x - eps, x + eps).clamp(0, 1)
    return found.detach()


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
