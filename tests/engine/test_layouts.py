"""Images come to a module in the layout of its convolutions, wherever they come from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastiseat import PGD, TrainStep
from fastiseat.pipelines.protocol.augmentation import Augmentation


class Net(nn.Module):
    """Reads its features by ``view`` where it is in NCHW, and notes how its images lie."""

    def __init__(self, *, by_view: bool) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 64, 5)
        self.by_view = by_view
        self.seen: set[bool] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add(x.is_contiguous(memory_format=torch.channels_last))
        features = self.conv(x).relu()
        return self.head(features.view(len(x), -1) if self.by_view else features.flatten(1))


@pytest.mark.parametrize("given", ["nchw", "nhwc", "uint8", "augmented"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_images_follow_the_weights(channels_last: bool, given: str) -> None:
    model = Net(by_view=not channels_last)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    step = TrainStep(model, attack=PGD(steps=2), augmentation=Augmentation(flip=True))
    images, labels = torch.randint(256, (6, 8, 8, 3), dtype=torch.uint8), torch.arange(6) % 5
    index = torch.arange(6) if given == "augmented" else None
    if given in ("nchw", "nhwc"):
        images = images.permute(0, 3, 1, 2) / 255
        images = images.contiguous() if given == "nchw" else images
    assert step(images, labels, index=index)["loss"].isfinite()
    assert model.seen == {channels_last}
