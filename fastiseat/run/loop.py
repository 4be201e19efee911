"""A whole run: epochs of steps, validation after each, the best weights, and everything needed to go on."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np

from fastiseat.checkpoint import WEIGHTS
from fastiseat.engine.precision import strict_float32
from fastiseat.engine.restore import deterministic
from fastiseat.lock import locked
from fastiseat.report.reader import MetricsRow
from fastiseat.run.epoch import train_epoch
from fastiseat.run.metrics import DivergedError, require_life
from fastiseat.run.opening import begin, rehearse, take
from fastiseat.run.rescue import roll_back, write_checkpoint
from fastiseat.run.resume import expected
from fastiseat.run.scores import final, is_best, validate
from fastiseat.run.state import Run
from fastiseat.run.threads import computing_with


def train(run: Run) -> list[MetricsRow]:
    """Train what is left of the run, then attack best and last weights; returns their results.

    SIGTERM, SIGINT and SIGUSR1 end it after the step under way, with a checkpoint, by
    :class:`fastiseat.run.signals.Stopped`; a second SIGINT at once.
    """
    with (
        # Before all else: what is decided about the directory holds only while nobody else may write there.
        locked(run.directory.path, say=run.observer.say, wait=run.wait),
        deterministic(run.config.run.deterministic),
        nullcontext() if run.config.run.tf32 else strict_float32(),
        run.interruptions,
        run.curves,
        computing_with(run.threads.count) if run.device.type == "cpu" else nullcontext(),
    ):
        # Again: between the first look at the directory and the lock another run may have had it.
        take(run)
        rehearse(run)
        begin(run)
        while not run.is_over:
            try:
                finish_epoch(run, train_epoch(run, len(run.rows)) | validate(run))
            except DivergedError as error:
                roll_back(run, error)
        # Of the files and not of the network at hand: what is published is what others can load.
        results = [final(run, which) for which in WEIGHTS]
        run.directory.write_results(results)
    return results


def finish_epoch(run: Run, row: MetricsRow) -> None:
    """Weights first, then the checkpoint, then the line that speaks of both."""
    # Decided before the row joins the others, which it is compared with.
    row["best"] = is_best(run, row)
    run.weights.settle(row, run.rows, expected(run).check)
    run.rows.append(row)
    run.weights.write(row, run.digests[-1])
    run.next_epoch()
    if run.every.after_epoch(len(run.rows)) or run.step.steps_taken >= run.total_steps:
        write_checkpoint(run)
        run.directory.checkpoints.flush()  # a line of metrics speaks of a checkpoint that is there
    # After weights and checkpoint: a run that is killed before has files ahead of metrics.jsonl, whose lines a
    # resume writes again, and never a line whose weights are nowhere.
    run.write_metrics()
    run.observer.epoch(row)
    labels = run.data.selection.labels
    # Last: whoever is told that the network is dead finds the epoch that showed it in the files.
    require_life(
        run.rows,
        run.data.selection_name,
        largest_share=float(np.bincount(labels).max() / len(labels)),
        chance=1 / run.data.whole.num_classes,
    )
