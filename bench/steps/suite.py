"""``bench step``: one training step by every variant and method, verified, then timed by turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fastiseat.bench.inputs import SEED, Images, batch, images_of
from fastiseat.bench.kernels.suite import which_bn_act, wrong_ops
from fastiseat.bench.machine import Clocks
from fastiseat.bench.rounds import Timing, by_turns
from fastiseat.bench.steps import ceiling as limits_of_device
from fastiseat.bench.steps.ceiling import Ceiling
from fastiseat.bench.steps.limits import require_fit
from fastiseat.bench.steps.metered import Metered
from fastiseat.bench.steps.recipe_time import hours
from fastiseat.bench.steps.subjects import Subject
from fastiseat.bench.steps.variants import NECESSARY, VARIANTS, Variant, name_of
from fastiseat.bench.steps.verify import Gate, WrongResultError, as_numbers
from fastiseat.config import Config
from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.progress import SILENT, Progress
from fastiseat.recipes import recipe
from fastiseat.run.networks import build_network

MODES_TITLE = ", modes"
"""Ends the title of a case that has other than plain steps of ours: it is no later measurement of the plain one."""
# CUDA graphs are recorded in the first calls; a CPU has had its warm-up when the result is verified.
_WARM_UP = {"cuda": 3, "cpu": 0}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained: a network on images of a data set's shape."""

    arch: str
    dataset: str
    batch_size: int

    @property
    def title(self) -> str:
        """For a table."""
        return f"{self.arch} on {images_of(self.dataset).title(self.dataset, self.batch_size)}"

    def config(self) -> Config:
        """The data set's recipe with this network and batch."""
        base = recipe(self.dataset, "iseat")
        return replace(
            base,
            data=replace(base.data, batch_size=self.batch_size),
            network=replace(base.network, arch=self.arch),
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to measure."""

    device: torch.device
    rounds: int
    seconds: float
    """Of each action in a round, about."""
    data_dir: Path | None = None
    """Where real images are; None for random ones."""
    progress: Progress = SILENT


@dataclass(kw_only=True)
class StepRow:
    """A variant and a method: figures, or the problem that there are none for."""

    variant: Variant
    method: str
    peak_bytes: int = 0
    deviations: dict[str, float] = field(default_factory=dict)
    problem: str = ""
    timing: Timing = field(default_factory=Timing)

    def as_json(self, device: torch.device) -> dict[str, Any]:
        """For a file of results; a row with a problem has no figure."""
        variant = self.variant
        told = {
            "variant": variant.name,
            "ours": variant.ours,
            "engine": variant.engine,
            "mode": variant.mode.name,
            "approximate": variant.mode.approximate,
            "precision": variant.precision,
            "method": self.method,
            "units": variant.units[self.method],
            "tf32": device.type == "cuda" and variant.tf32 and torch.backends.cudnn.allow_tf32,
            "problem": self.problem,
        }
        if self.problem:
            return told
        figures: dict[str, Any] = {
            "peak_bytes": self.peak_bytes,
            "deviations": as_numbers(self.deviations),
            "host_ms": self._host_ms(device),
        }
        return told | figures | {"median": self.timing.median, "spread": self.timing.spread} | asdict(self.timing)

    def _host_ms(self, device: torch.device) -> float | None:
        """None where the host is what computes; the tape, which stands for a graph there, is told all the same."""
        if device.type != "cuda" and self.variant.engine != "tape":
            return None
        return statistics.median(self.timing.host) * 1000


def run_case(
    case: Case,
    variants: Sequence[Variant],
    methods: Sequence[str],
    ceiling: Ceiling,
    plan: Plan,
    clocks: Clocks,
) -> dict[str, Any]:
    """Verify and time; the result as it goes into a file. :class:`UserError` where the batch does not fit."""
    config, images = case.config(), images_of(case.dataset)
    model = build_network(
        config.network, in_channels=images.channels, num_classes=images.num_classes, seed=SEED
    ).to(plan.device)
    require_fit(_humblest(variants[0]), model, config, images.shape, images.num_classes, plan.device)
    x, y = batch(case.dataset, case.batch_size, plan.data_dir, plan.device)
    bn_act = which_bn_act(model, x)
    rows = [StepRow(variant=v, method=m) for v in variants for m in methods if m in v.units]
    if wrong := wrong_ops(images, case.batch_size, plan.device):
        for row in rows:
            row.problem = wrong if row.variant.ours else ""
    actions = _verified(rows, Gate(model, config, x, y), plan)
    timings = by_turns(
        actions,
        device=plan.device,
        rounds=plan.rounds,
        seconds=plan.seconds,
        warm_up=_WARM_UP[plan.device.type],
        after_round=partial(_after_round, clocks, plan),
    )
    for number, timing in timings.items():
        rows[number].timing = timing
    cost = limits_of_device.work(model, images.shape)
    title = case.title + (MODES_TITLE if any(variant.mode.name for variant in variants) else "")
    told = asdict(case) | {
        "title": title,
        "bn_act": bn_act,
        "forward_flops": cost.flops,
        "bn_elements": cost.bn_elements,
    }
    return told | {
        "rows": [_told(row, config, cost, ceiling, plan.device) for row in rows],
        "recipe_hours": _recipe_hours(rows, config, images),
    }


def _humblest(variant: Variant) -> Variant:
    """What takes no more time than needed to tell whether a batch fits."""
    return VARIANTS[name_of("eager", variant.precision)] if variant.ours else variant


def _after_round(clocks: Clocks, plan: Plan, number: int) -> None:
    clocks.look()
    plan.progress.count("rounds", number, plan.rounds)


def _recipe_hours(rows: Sequence[StepRow], config: Config, images: Images) -> dict[str, float]:
    """By variant, from its own steps."""
    times: dict[str, dict[str, float]] = {}
    for row in rows:
        if not row.problem:
            times.setdefault(row.variant.name, {})[row.method] = row.timing.median
    units = {row.variant.name: row.variant.units for row in rows}
    return {name: hours(config, times[name], units[name], num_images=images.num_images) for name in times}


def _verified(rows: Sequence[StepRow], gate: Gate, plan: Plan) -> dict[int, Callable[[], object]]:
    """The actions of the rows that passed, by number; the others get their problem."""
    actions: dict[int, Callable[[], object]] = {}
    subjects: dict[tuple[str, str], Metered] = {}
    for number, row in enumerate(rows):
        plan.progress.count("variants verified", number, len(rows))
        # A step of ours moves the network into buffers of its own, and a recording is of one method.
        key = row.variant.name, row.method if row.variant.ours else ""
        if row.problem:
            continue
        try:
            if key not in subjects:
                subjects[key] = Metered(row.variant, gate.model, gate.config, plan.device)
            row.deviations = gate.check(row.variant, subjects[key], row.method)
            row.peak_bytes = subjects[key].peak
        except WrongResultError as error:
            row.problem = f"wrong: {error}"
        except UserError as error:
            row.problem = f"cannot run: {error}"
        except torch.OutOfMemoryError:
            row.problem = "does not fit into memory beside the others"
        else:
            actions[number] = _action(subjects[key].subject, row.method, gate)
    plan.progress.count("variants verified", len(rows), len(rows))
    return actions


def _action(subject: Subject, method: str, gate: Gate) -> Callable[[], object]:
    return lambda: subject.step(method, gate.x, gate.y)


def _told(
    row: StepRow, config: Config, cost: limits_of_device.Work, ceiling: Ceiling, device: torch.device
) -> dict[str, Any]:
    """The row, and what follows from its time: rate, share of the peak, floor, hours of the recipe."""
    told = row.as_json(device)
    if row.problem:
        return told
    passes, m, seconds = NECESSARY[row.method], config.data.batch_size, row.timing.median
    rate = ceiling.flops[row.variant.precision]
    # An approximate step needs less than the method does.
    part = min(1.0, row.variant.units[row.method] / passes.units)
    return told | {
        "images_per_second": m / seconds,
        "share_of_peak": part * limits_of_device.share(cost, passes, m, seconds, rate),
        "floor": part * limits_of_device.floor(cost, passes, m, ceiling, row.variant.precision),
    }
