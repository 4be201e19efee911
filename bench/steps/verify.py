"""No figure without a right result: each variant's step is held to the reference before it is timed.

The reference is the baseline ``eager-strict`` from the same weights on the same batch. A step is chaotic: one
rounding flips the sign of a small input gradient, ten attack steps and BatchNorm multiply it, and after a single
float32 step two honest programs can differ in most of the update. Hence two checks:

* *exact*, without rounding: the variant's float64 twin on the first images of the batch, every change of a weight
  and of a running statistic; all but the compiled baselines have one;
* *at its precision*, on the whole batch with the timed settings: what chaos leaves alone (losses, vulnerabilities,
  running statistics, the size of the update), within three times the deviation of an eager step of that precision.

Approximate modes are held to an eager step with the same approximation, and where that looks back one step, the exact
check looks at the second.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastiseat.bench.baselines import EagerBaseline
from fastiseat.bench.baselines.approximate import Approximate
from fastiseat.bench.deviation import relative
from fastiseat.bench.steps.subjects import BaselineSubject, Subject
from fastiseat.bench.steps.variants import Variant
from fastiseat.config import Config
from fastiseat.engine.precision import DTYPES

EXACT_IMAGES, EXACT = 4, 1e-9
# Steps before the one that is looked at, without rounding: ν of the first is 0.
_EARLIER = {"previous-step": 1}
FACTOR = 3.0
FLOOR = {"loss": 0.01, "av": 0.05, "statistics": 0.01, "update": 0.05}
"""Relative deviations that pass whatever the yardstick's own is: by luck it may be next to none."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one step did."""

    loss: Tensor
    av: Tensor | None
    weights: Tensor
    """The change of all parameters, in one vector."""
    statistics: Tensor
    """The change of all running statistics, in one vector."""


class WrongResultError(Exception):
    """A result that disagrees with the reference: there is no figure for it."""


def outcome(subject: Subject, method: str, x: Tensor, y: Tensor, *, earlier: int = 0) -> Outcome:
    """Take one step, after others if need be, and look at what it did."""
    for _ in range(earlier):
        subject.step(method, x, y)
    before = _vectors(subject.model)
    metrics = subject.step(method, x, y)
    weights, statistics = (after - old for after, old in zip(_vectors(subject.model), before, strict=True))
    return Outcome(loss=metrics["loss"], av=metrics.get("av"), weights=weights, statistics=statistics)


def _vectors(model: nn.Module) -> tuple[Tensor, Tensor]:
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    return _flat(list(model.parameters())), _flat(buffers)


def _flat(tensors: list[Tensor]) -> Tensor:
    # In the default layout: a network in channels-last must give the same vector.
    return torch.cat([torch.zeros(0), *(t.detach().contiguous().flatten().double().cpu() for t in tensors)])


class Gate:
    """The references for one network, batch and set of settings; each is computed once, when first needed."""

    def __init__(self, model: nn.Module, config: Config, x: Tensor, y: Tensor) -> None:
        self.model, self.config, self.x, self.y = model, config, x, y
        self._outcomes: dict[tuple[str, str, str], Outcome] = {}

    def check(self, variant: Variant, subject: Subject, method: str) -> dict[str, float]:
        """Take a step of ``subject``, which is ``variant``'s; its deviations, or :class:`WrongResultError`."""
        subject.start_over(self.model.state_dict())
        found = outcome(subject, method, self.x, self.y)
        kind = variant.mode.awp_gradient
        reference, yardstick = (self._reference(method, p, kind) for p in ("strict", variant.precision))
        deviations = compare(found, reference)
        for name, allowed in compare(yardstick, reference).items():
            limit = max(FACTOR * allowed, FLOOR[name])
            if not deviations[name] <= limit:  # a NaN is no pass
                raise WrongResultError(
                    f"{name} is {deviations[name]:.2g} off the reference; {limit:.2g} is allowed"
                )
        if variant.twin is not None:
            deviations["exact"] = self._exact(variant.twin, method, kind)
        return deviations

    def _exact(self, build: Callable[[nn.Module, Config], Subject], method: str, awp_gradient: str) -> float:
        """Largest relative deviation in float64, on a few images."""
        x, y = self.x[:EXACT_IMAGES].double(), self.y[:EXACT_IMAGES]
        model = copy.deepcopy(self.model).double()
        reference = self._reference(method, "double", awp_gradient)
        found = outcome(build(model, self.config), method, x, y, earlier=_EARLIER.get(awp_gradient, 0))
        deviation = max(
            relative(found.weights, reference.weights), relative(found.statistics, reference.statistics)
        )
        if not deviation <= EXACT:
            raise WrongResultError(
                f"in float64 the step is {deviation:.2g} off the reference; {EXACT:g} is allowed"
            )
        return deviation

    def _reference(self, method: str, kind: str, awp_gradient: str) -> Outcome:
        """``strict``, an eager step of a precision, or ``double``: float64 on the exact check's images."""
        key = (method, kind, awp_gradient)
        if key not in self._outcomes:
            self._outcomes[key] = self._compute(*key)
        return self._outcomes[key]

    def _compute(self, method: str, kind: str, awp_gradient: str) -> Outcome:
        model, x, y, earlier = copy.deepcopy(self.model), self.x, self.y, 0
        if kind == "double":
            model, x, y = model.double(), x[:EXACT_IMAGES].double(), y[:EXACT_IMAGES]
            earlier = _EARLIER.get(awp_gradient, 0)
        settings: dict[str, Any] = {"strict": True}
        if kind in DTYPES:
            settings = {"amp_dtype": DTYPES[kind], "channels_last": True}
        eager = EagerBaseline if awp_gradient == "exact" else partial(Approximate, awp_gradient=awp_gradient)
        return outcome(
            BaselineSubject(model, self.config, build=partial(eager, **settings)), method, x, y, earlier=earlier
        )


def compare(found: Outcome, reference: Outcome) -> dict[str, float]:
    """Relative deviations of what chaos leaves alone."""
    deviations = {
        "loss": relative(found.loss, reference.loss),
        "statistics": relative(found.statistics, reference.statistics),
        "update": relative(found.weights.norm(), reference.weights.norm()),
    }
    if found.av is not None and reference.av is not None:
        deviations["av"] = relative(found.av, reference.av)
    return deviations


def as_numbers(deviations: Mapping[str, float]) -> dict[str, float]:
    """Rounded for a file of results."""
    return {name: float(f"{value:.3g}") for name, value in deviations.items()}
