"""``bench loaders``: images a second of each loader alone, reading the same epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from fastiseat.bench.inputs import SEED
from fastiseat.bench.rounds import by_turns
from fastiseat.pipelines.base import Batch, Loader, Split
from fastiseat.pipelines.order import Order
from fastiseat.pipelines.torch import TorchLoader

Make = Callable[[Split, Order, torch.device], Loader]

LOADERS: dict[str, Make] = {"torch": lambda split, order, device: TorchLoader(split, order)}
"""By name, the reference first."""
REFERENCE = "torch"


def run(
    split: Split,
    batch_size: int,
    device: torch.device,
    *,
    loaders: Mapping[str, Make],
    rounds: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """A row for each loader; one whose batches are not the reference's has no figure."""
    order = Order(size=len(split), batch_size=batch_size, seed=SEED)
    made = {name: make(split, order, device) for name, make in loaders.items()}
    rows: list[dict[str, Any]] = [
        {"loader": name, "problem": wrong(loader, TorchLoader(split, order))} for name, loader in made.items()
    ]
    actions = {
        number: partial(next, endless(made[row["loader"]]))
        for number, row in enumerate(rows)
        if not row["problem"]
    }
    for number, timing in by_turns(actions, device=device, rounds=rounds, seconds=seconds, warm_up=2).items():
        rows[number] |= {"images_per_second": batch_size / timing.median, "median": timing.median}
        rows[number] |= {"spread": timing.spread} | asdict(timing)
    return rows


def endless(loader: Loader) -> Iterator[Batch]:
    """Epoch after epoch."""
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def wrong(loader: Loader, reference: Loader, batches: int = 3) -> str:
    """How the first batches differ from the reference's; empty where they don't."""
    pairs = zip(islice(loader.epoch(0), batches), islice(reference.epoch(0), batches), strict=True)
    for number, (found, expected) in enumerate(pairs):
        for name in Batch._fields:
            if not np.array_equal(getattr(found, name).cpu(), getattr(expected, name)):
                return f"wrong: the {name} of batch {number} are not the reference's"
    return ""
