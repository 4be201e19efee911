"""What ``fastiseat bench`` measures, and the document that it makes of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from fastiseat.bench import ceiling as ceilings
from fastiseat.bench import epochs, kernels, loaders, steps
from fastiseat.bench.inputs import SEED, images_of, training_split
from fastiseat.bench.limits import require_precisions
from fastiseat.bench.machine import Clocks, machine
from fastiseat.bench.steps import Case, Plan
from fastiseat.bench.variants import NECESSARY, Variant
from fastiseat.errors import UserError, unknown
from fastiseat.trainer import build_network

FORMAT = 1
PARTS = ("step", "loaders", "kernels", "epoch")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is compared."""

    cases: tuple[Case, ...]
    variants: tuple[Variant, ...]
    methods: tuple[str, ...]
    loaders: tuple[str, ...] = ()
    """Empty for all that work here."""
    backends: tuple[str, ...] = ()
    """Likewise."""
    images: int = 50_000
    """Training images that loaders read."""

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in NECESSARY:
                raise unknown("method to time", method, NECESSARY)
        for name in self.loaders:
            if name not in loaders.LOADERS:
                raise unknown("loader", name, loaders.LOADERS)
        for case in self.cases:
            images_of(case.dataset)
            if case.batch_size < 2:
                raise UserError(f"batch_size={case.batch_size}: BatchNorm needs at least 2 images")


def measure(what: tuple[str, ...], selection: Selection, plan: Plan) -> dict[str, Any]:
    """Everything of ``what``, parts of :data:`PARTS`, as one document."""
    require_precisions(selection.variants, plan.device)
    clocks = Clocks(device=plan.device)
    precisions = tuple(dict.fromkeys(["full", *(variant.precision for variant in selection.variants)]))
    plan.progress.say("measuring what the device can do")
    ceiling = ceilings.measure(plan.device, precisions, rounds=plan.rounds, seconds=plan.seconds)
    document: dict[str, Any] = {
        "format": FORMAT,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(plan.device),
        "rounds": plan.rounds,
        "data": "real images" if plan.data_dir else "random images",
        "ceiling": asdict(ceiling),
    }
    for part in what:
        document[part] = [_part(part, case, selection, ceiling, plan, clocks) for case in selection.cases]
    return document | {"clocks": clocks.summary()}


def _part(
    part: str, case: Case, selection: Selection, ceiling: ceilings.Ceiling, plan: Plan, clocks: Clocks
) -> dict[str, Any]:
    plan.progress.say(f"{part}: {case.title}")
    match part:
        case "step":
            return steps.run_case(case, selection.variants, selection.methods, ceiling, plan, clocks)
        case "kernels":
            rows = kernels.run(
                images_of(case.dataset),
                case.batch_size,
                plan.device,
                backends=selection.backends,
                bandwidth=ceiling.bandwidth,
                rounds=plan.rounds,
                seconds=plan.seconds,
            )
        case "loaders":
            split = training_split(case.dataset, selection.images, plan.data_dir)
            rows = loaders.run(
                split,
                case.batch_size,
                plan.device,
                loaders=_loaders(selection),
                rounds=plan.rounds,
                seconds=plan.seconds,
            )
        case _:
            assert part == "epoch", part
            return _epoch(case, selection, plan)
    return {"title": case.title, "rows": rows}


def _epoch(case: Case, selection: Selection, plan: Plan) -> dict[str, Any]:
    """By this library's first variant and the last of the methods, the dearest."""
    config, images, method = case.config(), images_of(case.dataset), selection.methods[-1]
    variant = next((variant for variant in selection.variants if variant.ours), None)
    if variant is None:
        raise UserError("bench epoch times this library's own step: give --engine and --precision")
    model = build_network(
        config.network, in_channels=images.channels, num_classes=images.num_classes, seed=SEED
    ).to(plan.device)
    rows = epochs.run(
        variant.build(copy.deepcopy(model), config),
        method,
        training_split(case.dataset, selection.images, plan.data_dir),
        config,
        plan.device,
        loaders=_loaders(selection),
        rounds=plan.rounds,
        seconds=plan.seconds,
    )
    return {"title": case.title, "variant": variant.name, "method": method, "rows": rows}


def _loaders(selection: Selection) -> Mapping[str, loaders.Make]:
    names = selection.loaders or tuple(loaders.LOADERS)
    return {name: loaders.LOADERS[name] for name in names}
