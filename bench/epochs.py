"""``bench epoch``: training from a loader against the same steps on one fixed batch: what the data costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from fastiseat.bench.inputs import SEED
from fastiseat.bench.loaders import Make, endless, wrong
from fastiseat.bench.rounds import by_turns
from fastiseat.bench.variants import Subject
from fastiseat.config import Config
from fastiseat.pipelines.base import Split
from fastiseat.pipelines.order import Order
from fastiseat.pipelines.torch import TorchLoader
from fastiseat.rundata import network_batch

FIXED = "one fixed batch"


def run(
    subject: Subject,
    method: str,
    split: Split,
    config: Config,
    device: torch.device,
    *,
    loaders: Mapping[str, Make],
    rounds: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """A row for the fixed batch, then one for each loader, all training the same network by turns."""
    order = Order(size=len(split), batch_size=config.data.batch_size, seed=SEED)
    x, y = network_batch(next(TorchLoader(split, order).epoch(0)), config.data, seed=SEED, epoch=0, device=device)
    rows: list[dict[str, Any]] = [{"loader": FIXED, "problem": ""}]
    actions: dict[int, Callable[[], object]] = {0: lambda: subject.step(method, x, y)}
    for name, make in loaders.items():
        loader = make(split, order, device)
        rows.append({"loader": name, "problem": wrong(loader, TorchLoader(split, order))})
        if not rows[-1]["problem"]:
            actions[len(rows) - 1] = partial(_train_on_next, subject, method, endless(loader), config, device)
    for number, timing in by_turns(actions, device=device, rounds=rounds, seconds=seconds).items():
        rows[number] |= {"median": timing.median, "spread": timing.spread} | asdict(timing)
        rows[number]["overhead"] = timing.median / rows[0].get("median", math.nan) - 1
    return rows


def _train_on_next(subject: Subject, method: str, batches: Any, config: Config, device: torch.device) -> None:
    images, labels = network_batch(next(batches), config.data, seed=SEED, epoch=0, device=device)
    subject.step(method, images, labels)
