"""What the tests of ``fastiseat.bench`` share: a case of a second, and variants that are wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from fastiseat.bench.inputs import batch, images_of
from fastiseat.bench.steps.ceiling import Ceiling
from fastiseat.bench.steps.suite import Case, Plan
from fastiseat.bench.steps.variants import VARIANTS, EngineSubject, Variant
from fastiseat.config import Config
from fastiseat.run.networks import build_network

CPU = torch.device("cpu")
CASE = Case(arch="small", dataset="digits", batch_size=12)
PLAN = Plan(device=CPU, rounds=2, seconds=1e-4)
CEILING = Ceiling(flops={"full": 1e11, "bf16": 1e12, "fp16": 1e12}, bandwidth=1e10)


def network() -> nn.Module:
    images = images_of(CASE.dataset)
    return build_network(
        CASE.config().network, in_channels=images.channels, num_classes=images.num_classes, seed=0
    )


def images_and_labels() -> tuple[Tensor, Tensor]:
    return batch(CASE.dataset, CASE.batch_size, None, CPU)


def planted(
    change: Callable[[Config], Config] = lambda config: config, *, precision: str = "full", name: str = "planted"
) -> Variant:
    """A variant that takes the engine's step with other settings than it was told; by default with the same."""

    def build(model: nn.Module, config: Config, *, precision: str = precision) -> EngineSubject:
        return EngineSubject(model, change(config), engine="eager", precision=precision)

    honest = VARIANTS[f"fastiseat-eager-{precision}"]
    return replace(honest, name=name, build=build, twin=partial(build, precision="full"))


def changed(group: str, **fields: float) -> Callable[[Config], Config]:
    """A change of one group of settings."""
    return lambda config: replace(config, **{group: replace(getattr(config, group), **fields)})
