"""``bench loaders``: images a second of each loader alone, reading the same epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastiseat.bench.inputs import SEED
from fastiseat.bench.loaders.inputs import Source
from fastiseat.bench.rounds import by_turns
from fastiseat.errors import UserError
from fastiseat.pipelines.loaders.choose import on_device, workers
from fastiseat.pipelines.loaders.jpeg import JpegLoader
from fastiseat.pipelines.loaders.resident import ResidentLoader
from fastiseat.pipelines.loaders.torch import TorchLoader
from fastiseat.pipelines.protocol.base import Batch, Loader, Split
from fastiseat.pipelines.protocol.order import Order
from fastiseat.pipelines.protocol.progress import SILENT
from fastiseat.pipelines.stores.beton import Beton, write_beton
from fastiseat.pipelines.stores.encoded import EncodedSplit

# FFCV's decoder rounds otherwise than Pillow's, by 6 levels at most; so may a GPU's.
_DECODERS_APART = 8


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A loader that can be timed."""

    make: Callable[[Source, Order, torch.device], Loader]
    jpeg: bool = False
    """Whether it decodes JPEG files, which not every data set has."""
    tolerance: int = 0
    """Levels that a pixel may be off the packed one."""


def _files(source: Source) -> EncodedSplit:
    assert source.files is not None, "entries that decode are left out where there are no files"
    return source.files


def _ffcv(content: Split | EncodedSplit, folder: Path, order: Order) -> Loader:
    from fastiseat.pipelines.loaders.ffcv import FfcvLoader

    path = folder / ("packed" if isinstance(content, Split) else "jpeg")
    beton = Beton.at(path) or write_beton(path, content, name="bench", fingerprint="", progress=SILENT)
    return FfcvLoader(beton, order, workers=workers())


def _dali(content: Split | EncodedSplit, order: Order, device: torch.device) -> Loader:
    from fastiseat.pipelines.loaders.dali import DaliLoader

    return DaliLoader(content, order, device=device, workers=workers())


LOADERS: dict[str, Entry] = {
    "torch": Entry(make=lambda source, order, device: TorchLoader(source.split, order)),
    "resident": Entry(make=lambda source, order, device: ResidentLoader(source.split, order, device=device)),
    "ffcv": Entry(make=lambda source, order, device: _ffcv(source.split, source.folder, order)),
    "dali": Entry(make=lambda source, order, device: _dali(source.split, order, device)),
    "torch-jpeg": Entry(
        make=lambda source, order, device: JpegLoader(_files(source), order, workers=workers()), jpeg=True
    ),
    "ffcv-jpeg": Entry(
        make=lambda source, order, device: _ffcv(_files(source), source.folder, order),
        jpeg=True,
        tolerance=_DECODERS_APART,
    ),
    "dali-jpeg": Entry(
        make=lambda source, order, device: _dali(_files(source), order, device),
        jpeg=True,
        tolerance=_DECODERS_APART,
    ),
}
"""By name, the reference first."""


def run(
    source: Source,
    batch_size: int,
    device: torch.device,
    *,
    entries: Mapping[str, Entry],
    rounds: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """A row for each loader; one that is absent, or whose batches are not the reference's, has no figure."""
    order = Order(size=len(source.split), batch_size=batch_size, seed=SEED)
    rows, made = prepare(source, order, device, entries)
    actions = {number: partial(_gather_next, endless(loader)) for number, loader in made.items()}
    for number, timing in by_turns(actions, device=device, rounds=rounds, seconds=seconds, warm_up=2).items():
        rows[number] |= {"images_per_second": batch_size / timing.median, "median": timing.median}
        rows[number] |= {"spread": timing.spread} | asdict(timing)
    return rows


def _gather_next(batches: Iterator[Batch]) -> Batch:
    """The next batch's own pixels: a loader that leaves gathering to others is timed with it."""
    return next(batches).gathered()


def prepare(
    source: Source, order: Order, device: torch.device, entries: Mapping[str, Entry]
) -> tuple[list[dict[str, Any]], dict[int, Loader]]:
    """A row for each loader with its problem, if any, and those without one by their row's number."""
    reference = TorchLoader(source.split, order)
    rows: list[dict[str, Any]] = []
    made = {}
    for name, entry in entries.items():
        if entry.jpeg and source.files is None:
            continue
        try:
            loader = on_device(device, entry.make(source, order, device))
            problem = wrong(loader, reference, tolerance=entry.tolerance)
        except UserError as error:
            problem = f"absent: {error}"
        else:
            if not problem:
                made[len(rows)] = loader
        rows.append({"loader": name, "problem": problem})
    return rows, made


def endless(loader: Loader) -> Iterator[Batch]:
    """Epoch after epoch."""
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def wrong(loader: Loader, reference: Loader, *, tolerance: int = 0, batches: int = 3) -> str:
    """How the first batches differ from the reference's; empty where they don't."""
    pairs = zip(islice(loader.epoch(0), batches), islice(reference.epoch(0), batches), strict=True)
    for number, (batch, expected) in enumerate(pairs):
        found = batch.gathered()
        for name, allowed in {"index": 0, "labels": 0, "images": tolerance}.items():
            if _largest_difference(getattr(found, name), getattr(expected, name)) > allowed:
                return f"wrong: the {name} of batch {number} are not the reference's"
    return ""


def _largest_difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return int((found.cpu().long() - expected.long()).abs().max())
