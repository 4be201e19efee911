"""Optimizers: each a file with an ``init`` of its named state and an ``update`` in place, as in optax."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import nn

from fastiseat import config
from fastiseat.weights.averages import Average
from fastiseat.weights.descent import Descent
from fastiseat.weights.perturbations import Perturbation, WeightPerturbation
from fastiseat.weights.state import State, Stateful

__all__ = ["UpdateRule", "rule_of"]


class UpdateRule(Stateful):
    """How weights and the optimizer's state go on; ``init`` and ``update`` are all that one needs."""

    unrecordable: ClassVar[str] = ""
    """Why a recording of it, replayed, would do something else; empty where it does the same with other numbers."""
    takes_half: ClassVar[bool] = True
    """Whether passes may take weights from a half-precision shadow; else half precision is autocast's."""
    averages: ClassVar[tuple[type[Average], ...]] = ()
    """The averages that its own sweep keeps."""

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        """:class:`fastiseat.errors.UserError` where it cannot serve these weights."""

    @classmethod
    def check(cls, device: torch.device) -> None:
        """:class:`fastiseat.errors.UserError` where it cannot be had on ``device``, before there are weights."""

    def perturbation(self, awp: config.AWP) -> Perturbation:
        """What computes ν beside it."""
        return WeightPerturbation(awp)

    @abstractmethod
    def update(self, state: State, at: Descent, numbers: Any) -> None:
        """Write θ and ``state`` in place.

        ``numbers`` is the optimizer's entry of the settings. Of its numbers those that may change from step to step are
        tensors on the device in a recording: :meth:`Descent.number` takes either.
        """


def rule_of(optimizer: config.Optimizer) -> type[UpdateRule]:
    """The class that :meth:`fastiseat.config.Optimizer.home` names."""
    module, name = optimizer.home().split(":")
    found: type[UpdateRule] = getattr(import_module(module), name)
    return found
