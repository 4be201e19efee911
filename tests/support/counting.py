"""Passes of a network, counted from outside by the operators that PyTorch runs."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class CountedPasses(TorchDispatchMode):
    """Counts forward, input-gradient and weight-gradient passes of ``small``, each by its share of ``batch`` images.

    At the second convolution, whose input needs a gradient in every pass; the convolutions of its shape are counted.
    """

    def __init__(self, model: nn.Module, batch: int) -> None:
        super().__init__()
        self.shape = model.layer1[0].conv1.weight.shape
        self.share = 1 / batch / sum(weight.shape == self.shape for weight in model.parameters())
        self.counts = dict.fromkeys(("forward", "input", "weight"), 0.0)

    @property
    def units(self) -> float:
        """All of them together."""
        return round(sum(self.counts.values()), 6)

    @property
    def passes(self) -> tuple[float, float, float]:
        """Forward, input-gradient, weight-gradient."""
        forward, of_input, of_weight = (round(count, 6) for count in self.counts.values())
        return forward, of_input, of_weight

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name == "aten::convolution" and args[1].shape == self.shape:
            self.counts["forward"] += len(args[0]) * self.share
        if name == "aten::convolution_backward" and args[2].shape == self.shape:
            self.counts["input"] += args[-1][0] * len(args[1]) * self.share
            self.counts["weight"] += args[-1][1] * len(args[1]) * self.share
        return func(*args, **(kwargs or {}))
