"""A small network, images for it, and a record of the passes that it makes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fastiseat import models
from fastiseat.pipelines.protocol.base import Split

CLASSES = 5


def small(seed: int = 3) -> nn.Module:
    """In train mode, its BatchNorm with statistics of its own."""
    torch.manual_seed(seed)
    model = models.build("small", in_channels=3, num_classes=CLASSES)
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(32, 3, 8, 8))
    return model


def split_of(model: nn.Module, size: int = 42, *, seed: int = 0) -> Split:
    """Images whose labels are mostly what ``model`` says of them."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, size=(size, 8, 8, 3), dtype=np.uint8)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous() / 255
    weight, training = next(model.parameters()), model.training
    with torch.no_grad():
        labels = model.eval()(x.to(weight)).argmax(1).cpu().numpy()
    model.train(training)
    labels[::7] = (labels[::7] + 1) % CLASSES
    return Split(images=images, labels=labels)


def watch(model: nn.Module, what: Callable[[Tensor], object]) -> list[object]:
    """``what`` of the input of each pass through ``model`` from here on; a replay makes none."""
    seen: list[object] = []

    def look(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(what(inputs[0]))

    model.register_forward_pre_hook(look)
    return seen
