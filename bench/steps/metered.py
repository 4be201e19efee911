"""A variant at work, and the memory that it takes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fastiseat.bench.steps.memory import peak_bytes
from fastiseat.bench.steps.subjects import Subject
from fastiseat.bench.steps.variants import Variant
from fastiseat.config import Config


class Metered:
    """A subject that notes the memory of its steps."""

    def __init__(self, variant: Variant, model: nn.Module, config: Config, device: torch.device) -> None:
        self.device, self.built, self.highest = device, 0, 0
        self.subject: Subject
        self.built = self._measure(lambda: self._build(variant, model, config))
        self.model = self.subject.model

    def _build(self, variant: Variant, model: nn.Module, config: Config) -> None:
        self.subject = variant.build(copy.deepcopy(model), config)

    def step(self, method: str, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        """As the subject's."""
        found: dict[str, Tensor] = {}
        self.highest = self._measure(lambda: found.update(self.subject.step(method, x, y)))
        return found

    def start_over(self, state: Mapping[str, Tensor]) -> None:
        """As the subject's."""
        self.subject.start_over(state)

    def _measure(self, action: Callable[[], object]) -> int:
        return peak_bytes(action, self.device)

    @property
    def peak(self) -> int:
        """Of the network with all that belongs to it, and the first step of the last method."""
        return self.built + self.highest
