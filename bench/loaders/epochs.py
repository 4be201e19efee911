"""``bench epoch``: training from a loader against the same steps on one fixed batch: what the data costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from fastiseat.bench.inputs import SEED
from fastiseat.bench.loaders.inputs import Source
from fastiseat.bench.loaders.suite import Entry, endless, prepare
from fastiseat.bench.rounds import by_turns
from fastiseat.bench.steps.subjects import Subject
from fastiseat.config import Config
from fastiseat.pipelines.loaders.torch import TorchLoader
from fastiseat.pipelines.protocol.order import Order
from fastiseat.run.data import network_batch

FIXED = "one fixed batch"


def run(
    subject: Subject,
    method: str,
    source: Source,
    config: Config,
    device: torch.device,
    *,
    entries: Mapping[str, Entry],
    rounds: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """A row for the fixed batch, then one for each loader, all training the same network by turns."""
    order = Order(size=len(source.split), batch_size=config.data.batch_size, seed=SEED)
    first = next(TorchLoader(source.split, order).epoch(0))
    x, y = network_batch(first, config.data, seed=SEED, epoch=0, device=device)
    actions: dict[int, Callable[[], object]] = {-1: lambda: subject.step(method, x, y)}
    rows, made = prepare(source, order, device, entries)
    for number, loader in made.items():
        actions[number] = partial(_train_on_next, subject, method, endless(loader), config, device)
    timings = by_turns(actions, device=device, rounds=rounds, seconds=seconds)
    fixed = timings[-1].median
    rows = [{"loader": FIXED, "problem": ""}, *rows]
    for number, timing in timings.items():
        rows[number + 1] |= {"median": timing.median, "spread": timing.spread} | asdict(timing)
        rows[number + 1]["overhead"] = timing.median / fixed - 1
    return rows


def _train_on_next(subject: Subject, method: str, batches: Any, config: Config, device: torch.device) -> None:
    images, labels = network_batch(next(batches), config.data, seed=SEED, epoch=0, device=device)
    subject.step(method, images, labels)
