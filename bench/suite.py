"""What ``fastiseat bench`` measures, and the document that it makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import product
from typing import Any

from fastiseat.bench.attack import suite as attack
from fastiseat.bench.attack.suite import Attacks
from fastiseat.bench.inputs import SEED, images_of
from fastiseat.bench.kernels import suite as kernels
from fastiseat.bench.loaders import epochs
from fastiseat.bench.loaders import suite as loaders
from fastiseat.bench.loaders.inputs import source
from fastiseat.bench.machine import Clocks, machine
from fastiseat.bench.steps import ceiling as ceilings
from fastiseat.bench.steps import suite as steps
from fastiseat.bench.steps import targets
from fastiseat.bench.steps.ceiling import Ceiling
from fastiseat.bench.steps.limits import require_supported
from fastiseat.bench.steps.suite import Case, Plan
from fastiseat.bench.steps.variants import NECESSARY, Variant
from fastiseat.errors import UserError, unknown
from fastiseat.run.networks import build_network

FORMAT = 1

Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is compared."""

    cases: tuple[Case, ...]
    variants: tuple[Variant, ...]
    methods: tuple[str, ...]
    alone: tuple[int, ...] = (128,)
    """Batch sizes that kernels and loaders are measured at, on the data sets of the cases."""
    loaders: tuple[str, ...] = ()
    """Empty for all that work here."""
    backends: tuple[str, ...] = ()
    """Likewise."""
    images: int = 50_000
    """Training images that loaders read."""
    attacks: Attacks = field(default_factory=Attacks)

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in NECESSARY:
                raise unknown("method to time", method, NECESSARY)
        for name in self.loaders:
            if name not in loaders.LOADERS:
                raise unknown("loader", name, loaders.LOADERS)
        for case in self.cases:
            images_of(case.dataset)
        for batch_size in (*(case.batch_size for case in self.cases), *self.alone):
            if batch_size < 2:
                raise UserError(f"batch_size={batch_size}: BatchNorm needs at least 2 images")

    @property
    def inputs(self) -> list[tuple[str, int]]:
        """Data set and batch size of what is measured without a network."""
        return list(product(dict.fromkeys(case.dataset for case in self.cases), self.alone))

    @property
    def largest_batch(self) -> int:
        """Of all cases."""
        return max([case.batch_size for case in self.cases] + [case.batch_size for case in self.attacks.cases])


def measure(what: tuple[str, ...], selection: Selection, plan: Plan) -> dict[str, Any]:
    """Everything of ``what``, parts of :data:`PARTS`, as one document."""
    require_supported(selection.variants, plan.device)
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
        plan.progress.say(f"measuring: {part}")
        document[part] = list(_PARTS[part](selection, ceiling, plan, clocks))
    return document | {"clocks": clocks.summary(), "targets": targets.judged(document)}


def _step(selection: Selection, ceiling: Ceiling, plan: Plan, clocks: Clocks) -> Iterator[Result]:
    for case in selection.cases:
        yield steps.run_case(case, selection.variants, selection.methods, ceiling, plan, clocks)


def _kernels(selection: Selection, ceiling: Ceiling, plan: Plan, _clocks: Clocks) -> Iterator[Result]:
    for dataset, batch_size in selection.inputs:
        images = images_of(dataset)
        rows = kernels.run(
            images,
            batch_size,
            plan.device,
            backends=selection.backends,
            bandwidth=ceiling.bandwidth,
            rounds=plan.rounds,
            seconds=plan.seconds,
        )
        yield {"title": images.title(dataset, batch_size), "rows": rows}


def _loaders(selection: Selection, _ceiling: Ceiling, plan: Plan, _clocks: Clocks) -> Iterator[Result]:
    for dataset, batch_size in selection.inputs:
        with source(dataset, selection.images, plan.data_dir) as images:
            rows = loaders.run(
                images,
                batch_size,
                plan.device,
                entries=_chosen_loaders(selection),
                rounds=plan.rounds,
                seconds=plan.seconds,
            )
        yield {"title": images_of(dataset).title(dataset, batch_size), "rows": rows}


def _epoch(selection: Selection, _ceiling: Ceiling, plan: Plan, _clocks: Clocks) -> Iterator[Result]:
    """By this library's first variant and the last of the methods, the dearest."""
    variant = next((variant for variant in selection.variants if variant.ours), None)
    if variant is None:
        raise UserError("bench epoch times this library's own step: give --engine and --precision")
    method = selection.methods[-1]
    for case in selection.cases:
        config, images = case.config(), images_of(case.dataset)
        model = build_network(
            config.network, in_channels=images.channels, num_classes=images.num_classes, seed=SEED
        ).to(plan.device)
        with source(case.dataset, selection.images, plan.data_dir) as training_images:
            rows = epochs.run(
                variant.build(model, config),
                method,
                training_images,
                config,
                plan.device,
                entries=_chosen_loaders(selection),
                rounds=plan.rounds,
                seconds=plan.seconds,
            )
        yield {"title": case.title, "variant": variant.name, "method": method, "rows": rows}


def _attack(selection: Selection, _ceiling: Ceiling, plan: Plan, _clocks: Clocks) -> Iterator[Result]:
    for case in selection.attacks.cases:
        yield from attack.run_case(case, selection.attacks, plan)


def _chosen_loaders(selection: Selection) -> Mapping[str, loaders.Entry]:
    names = selection.loaders or tuple(loaders.LOADERS)
    return {name: loaders.LOADERS[name] for name in names}


_PARTS = {"step": _step, "loaders": _loaders, "kernels": _kernels, "epoch": _epoch, "attack": _attack}
PARTS = tuple(_PARTS)
