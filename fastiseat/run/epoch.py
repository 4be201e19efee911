"""The training steps of one epoch, and what they measured."""

from __future__ import annotations

import resource
import sys
import time
from itertools import islice

import torch
from torch import Tensor

from fastiseat.pipelines.protocol.base import Batch
from fastiseat.recipes import METHODS
from fastiseat.report.reader import MetricsRow
from fastiseat.run.metrics import caveats, require_finite, require_finite_network
from fastiseat.run.rescue import heed_signals, write_checkpoint
from fastiseat.run.state import Run
from fastiseat.schedule import as_row, moving, progress, scalars_of_step

# How many steps on a GPU may pass before a loss that is no number is noticed; a CPU looks at each.
FINITE_EVERY = 50


def train_epoch(run: Run, epoch: int) -> MetricsRow:
    """What is left of the epoch; its row. Its clock goes on from where a checkpoint stopped it."""
    began, first = time.perf_counter() - run.seconds, run.steps_in_epoch
    # A run may end within an epoch; the clock and the steps of a resumed one go on from the checkpoint.
    steps = min(len(run.loader), run.total_steps - run.step.steps_taken + first)
    scalars = scalars_of(run, epoch, steps - 1)
    _enter(run, epoch, scalars)
    in_motion = moving(run.config.schedule)
    for number, batch in enumerate(islice(run.loader.epoch(epoch, first=first), steps - first), start=first):
        if in_motion:
            now = scalars_of(run, epoch, number)
            run.step.set(**{name: now[name] for name in in_motion})
        metrics, images = _take_step(run, batch)
        # Reading a loss waits for the GPU, which is then idle until the next step is launched.
        if run.device.type == "cpu" or number % FINITE_EVERY == 0 or number == steps - 1:
            require_finite(metrics["loss"], run.meter.nan_gradient, epoch=epoch, step=number)
        run.observer.step(epoch=epoch, step=number, images=images, metrics=metrics)
        run.timed(time.perf_counter() - began)
        if run.every.after_step(run.step.steps_taken):
            write_checkpoint(run)
        heed_signals(run)
    # Weights and running statistics of the last step are written after its loss: no loss has told of them yet.
    require_finite_network(run.model, epoch=epoch)
    run.timed(time.perf_counter() - began)
    return _row(run, epoch, steps, scalars)


def scalars_of(run: Run, epoch: int, step: int) -> dict[str, float]:
    """Of one step; an epoch's row has those of its last."""
    return as_row(scalars_of_step(run.config, epoch, step, len(run.loader)), run.config.schedule)


def _enter(run: Run, epoch: int, scalars: dict[str, float]) -> None:
    if not run.config.objective.lam:
        scalars = {name: value for name, value in scalars.items() if name != "lam"}
    run.step.set(**scalars)
    run.step.come_to(progress(epoch, run.config.schedule.epochs))
    run.step.set(epoch=epoch)


def _take_step(run: Run, batch: Batch) -> tuple[dict[str, Tensor], int]:
    """Its metrics, which the meter keeps, and how many images it was on."""
    here = Batch(*(part.to(run.device, non_blocking=True) for part in batch.tensors))
    metrics = run.step(here.images, here.labels, index=here.index, rows=here.rows)
    run.meter.add(metrics)
    return metrics, len(here.index)


def _row(run: Run, epoch: int, steps: int, scalars: dict[str, float]) -> MetricsRow:
    measured = run.meter.row()
    return {
        "epoch": epoch,
        "steps": steps,
        **scalars,
        **measured,
        "caveats": caveats(measured, from_start=_cleans_at_the_start(run)),
        "seconds": run.seconds,
        "images_per_second": steps * run.images_a_step / run.seconds,
        "peak_memory_bytes": peak_memory_bytes(run.device),
    }


def _cleans_at_the_start(run: Run) -> bool:
    """Whether the clean logits of a step are those of the images that its attack started from."""
    attack, uses = run.config.attack, METHODS[run.config.objective.method]
    return attack.random_start and (attack.bn_mode == "train" or uses.stability)


def peak_memory_bytes(device: torch.device) -> int:
    """Since the process began: on a GPU what PyTorch reserved there, recordings of steps included; else all of it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
