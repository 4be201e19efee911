"""Variants with a network of their own: this library's step, and the baselines'."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from fastiseat.bench.baselines import EagerBaseline
from fastiseat.bench.baselines.networks import plain
from fastiseat.bench.steps.modes import PLAIN, Mode
from fastiseat.bench.steps.wasteful import wasteful_attacks
from fastiseat.config import Config
from fastiseat.engine import TrainStep
from fastiseat.methods import from_config
from fastiseat.recipes import METHODS

LR = 0.01
"""Every variant's learning rate: on one batch, step after step, the recipes' would diverge."""


class Subject(Protocol):
    """A variant with a network of its own, ready to be timed; all methods train that one network."""

    model: nn.Module

    def step(self, method: str, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        """One training step by ``method``; metrics with ``loss`` among them."""

    def start_over(self, state: Mapping[str, Tensor]) -> None:
        """Take the network back to ``state``, and let go of all momentum and gradients."""


class EngineSubject:
    """:class:`fastiseat.TrainStep` for each method that is asked for, over one network.

    Each has buffers of its own, which the network moves into at its turn: one method alone costs what it does in
    training.
    """

    def __init__(
        self, model: nn.Module, config: Config, *, engine: str, precision: str, mode: Mode = PLAIN
    ) -> None:
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if mode.checkpoint_blocks:
            self.model.checkpoint_blocks = True
        self.config, self.engine, self.precision, self.mode = config, engine, precision, mode
        self._steps: dict[str, TrainStep] = {}

    def step(self, method: str, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        """One step of the method's own TrainStep."""
        if method not in self._steps:
            self._steps[method] = self._build(method)
        with wasteful_attacks() if self.mode.wasteful else nullcontext():
            return self._steps[method](x, y)

    def start_over(self, state: Mapping[str, Tensor]) -> None:
        """Weights in place; no method has momentum, or a gradient to remember."""
        self.model.load_state_dict(dict(state))
        for step in self._steps.values():
            step.load_state_dict(step.state_dict() | {"momentum_buffers": {}, "last_gradients": {}})

    def _build(self, method: str) -> TrainStep:
        config = self.config
        awp = config.awp if METHODS[method].awp else replace(config.awp, gamma=0.0)
        return TrainStep(
            self.model,
            method=from_config(replace(config.objective, method=method)),
            attack=config.attack,
            awp=replace(awp, gradient=self.mode.awp_gradient),
            optimizer=replace(config.optimizer, lr=LR),
            engine=self.engine,
            precision=self.precision,
            clean_graph=self.mode.clean_graph,
            overlap=self.mode.overlap,
        )


class BaselineSubject:
    """A baseline on the network as people write it, told before each step which terms are on."""

    def __init__(self, model: nn.Module, config: Config, *, build: Callable[..., EagerBaseline]) -> None:
        self.config = config
        attack, optimizer = config.attack, config.optimizer
        self.baseline = build(
            plain(model),
            eps=attack.eps,
            step_size=attack.step_size,
            steps=attack.steps,
            lr=LR,
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
        )
        self.model = self.baseline.model

    def step(self, method: str, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        """One step with the method's λ and γ."""
        parts = METHODS[method]
        self.baseline.lam = self.config.objective.lam if parts.stability else 0.0
        self.baseline.gamma = self.config.awp.gamma if parts.awp else 0.0
        return self.baseline.step(x, y)

    def start_over(self, state: Mapping[str, Tensor]) -> None:
        """Weights in place; the optimizer begins anew, and no gradient is left."""
        self.model.load_state_dict(dict(state))
        self.baseline.optimizer.state.clear()
        self.baseline.optimizer.zero_grad()
        self.baseline.proxy.zero_grad()
