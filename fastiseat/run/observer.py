"""Who watches a run."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from fastiseat.report.reader import MetricsRow


class Observer(Protocol):
    """Who watches a run. Metrics are device tensors: reading one waits for the device."""

    def step(self, *, epoch: int, step: int, images: int, metrics: dict[str, Tensor]) -> None:
        """After each training step; ``images`` is the size of its batch."""

    def epoch(self, row: MetricsRow) -> None:
        """After each epoch, with its line of ``metrics.jsonl``."""

    def evaluating(self, what: str, done: int, total: int) -> None:
        """While a split is evaluated: ``done`` of ``total`` images."""

    def say(self, line: str) -> None:
        """Something that the user should know."""
