"""What ``bench step`` times: this library's engines and the baselines, each as a variant of one training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from fastiseat.bench.baselines import BASELINES, Eager
from fastiseat.bench.baselines.networks import plain
from fastiseat.config import Config
from fastiseat.engine import TrainStep
from fastiseat.engine.engines import ENGINES
from fastiseat.engine.precision import DTYPES
from fastiseat.errors import unknown
from fastiseat.methods import from_config
from fastiseat.recipes import METHODS


class Passes(NamedTuple):
    """Forward, input-gradient and weight-gradient passes of one step, with 10 attack steps."""

    forward: int
    input: int
    weight: int

    @property
    def units(self) -> int:
        """All of them, each counted as one."""
        return sum(self)


NECESSARY = {
    "at": Passes(11, 11, 1),
    "at-awp": Passes(12, 12, 2),
    "lsi": Passes(11, 12, 2),
    "iseat": Passes(12, 13, 3),
}
"""What each method needs where nothing is computed twice; what the engines here compute."""

LR = 0.01
"""Every variant's learning rate: on one batch, step after step, the recipes' would diverge."""


class Subject(Protocol):
    """A variant with a network of its own, ready to be timed; all methods train that one network."""

    model: nn.Module

    def step(self, method: str, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        """One training step by ``method``; metrics with ``loss`` among them."""

    def start_over(self, state: Mapping[str, Tensor]) -> None:
        """Take the network back to ``state``, and let go of all momentum and gradients."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to compute the step."""

    name: str
    description: str
    precision: str
    """``full``, ``bf16`` or ``fp16``."""
    units: Mapping[str, int]
    """By method; a method that is missing here is not offered."""
    build: Callable[[nn.Module, Config], Subject]
    """Takes the network, which becomes its own, and the settings."""
    ours: bool = False
    tf32: bool = True
    """Whether float32 convolutions may use TF32 where the device has it and the process allows it."""
    twin: Callable[[nn.Module, Config], Subject] | None = None
    """Builds the same program for a float64 network, where it can be held to the reference without rounding."""


class EngineSubject:
    """:class:`fastiseat.TrainStep` for each method, over one network."""

    def __init__(self, model: nn.Module, config: Config, *, engine: str, precision: str) -> None:
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.steps = {
            method: TrainStep(
                self.model,
                method=from_config(replace(config.objective, method=method)),
                attack=config.attack,
                awp=config.awp if METHODS[method].awp else replace(config.awp, gamma=0.0),
                optimizer=replace(config.optimizer, lr=LR),
                engine=engine,
                precision=precision,
            )
            for method in NECESSARY
        }

    def step(self, method: str, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        """One step of the method's own TrainStep."""
        return self.steps[method](x, y)

    def start_over(self, state: Mapping[str, Tensor]) -> None:
        """Weights in place; no method has momentum."""
        self.model.load_state_dict(dict(state))
        for step in self.steps.values():
            step.load_state_dict(step.state_dict() | {"momentum_buffers": {}})


class BaselineSubject:
    """A baseline on the network as people write it, told before each step which terms are on."""

    def __init__(self, model: nn.Module, config: Config, *, build: Callable[..., Eager]) -> None:
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


def _engine(engine: str, precision: str) -> Variant:
    return Variant(
        name=f"fastiseat-{engine}-{precision}",
        description=f"this library, engine {engine}, channels-last",
        precision=precision,
        units={method: passes.units for method, passes in NECESSARY.items()},
        build=partial(EngineSubject, engine=engine, precision=precision),
        twin=partial(EngineSubject, engine=engine, precision="full"),
        ours=True,
    )


def _in_full(build: Callable[..., Eager]) -> Callable[..., Eager]:
    """The same baseline without autocast."""
    return partial(build, amp_dtype=None)


def _baseline(name: str) -> Variant:
    baseline = BASELINES[name]
    return Variant(
        name=name,
        description=baseline.description,
        precision=baseline.precision,
        units=baseline.units,
        build=partial(BaselineSubject, build=baseline.build),
        tf32=baseline.tf32,
        twin=None if name.startswith("compile") else partial(BaselineSubject, build=_in_full(baseline.build)),
    )


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in [
        *(_engine(engine, precision) for engine in ENGINES for precision in DTYPES),
        *map(_baseline, BASELINES),
    ]
}
"""By name. An entry more is all that it takes to have another one verified, timed and listed."""


def chosen(engines: tuple[str, ...], precisions: tuple[str, ...], baselines: tuple[str, ...]) -> list[Variant]:
    """The library's own in all combinations, then the baselines; :class:`UserError` for a name that is none."""
    for kind, names, known in (
        ("engine", engines, ENGINES),
        ("precision", precisions, tuple(DTYPES)),
        ("baseline", baselines, tuple(name for name, variant in VARIANTS.items() if not variant.ours)),
    ):
        for name in names:
            if name not in known:
                raise unknown(kind, name, known)
    ours = [VARIANTS[f"fastiseat-{engine}-{precision}"] for engine in engines for precision in precisions]
    return [*ours, *(VARIANTS[name] for name in baselines)]
