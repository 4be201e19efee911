"""What becomes of a run that is stopped or diverges: checkpoints, and the way back to them."""

from __future__ import annotations

from fastiseat.checkpoint import RUN
from fastiseat.run.metrics import DivergedError, require_finite_network
from fastiseat.run.resume import MOST_ROLLBACKS, latest, restore, restore_weights
from fastiseat.run.signals import Stopped
from fastiseat.run.state import Run


def write_checkpoint(run: Run) -> None:
    """Of a good state only: one with a number that is none would be gone on from for ever."""
    require_finite_network(run.model, run.meter.nan_gradient, epoch=len(run.rows))
    run.directory.checkpoints.save(
        {
            "model": run.model.state_dict(),
            "step": run.step.state_dict(),
            "rows": run.rows,
            "meter": run.meter.state_dict(),
            "seconds": run.seconds,
            "rollbacks": run.rollbacks,
            RUN: run.digests[-1],
        },
        step=run.step.steps_taken,
    )
    run.every.written()


def heed_signals(run: Run) -> None:
    """Where a signal has asked for it, end the run; what it has done so far is in a checkpoint."""
    if run.interruptions.requested is not None:
        write_checkpoint(run)
        # Checkpoints are written by a thread: the process ends when this one is on the disk, and not before.
        run.directory.checkpoints.close()
        how = f"after a checkpoint; go on with: {run.directory.resuming()}"
        raise Stopped(run.interruptions.requested, how)


def roll_back(run: Run, error: DivergedError) -> None:
    """Go on from the last checkpoint with the images in another order, or let ``error`` end the run."""
    # Read before the checkpoint is, which holds the count of its own time: a run could roll back to it for ever.
    rollbacks = run.rollbacks
    if run.on_nan != "rollback" or rollbacks >= MOST_ROLLBACKS or latest(run) is None:
        raise error
    restore(run)
    run.rolled_back(rollbacks + 1)
    restore_weights(run, anew=True)
    run.write_metrics()
    # In the same order it would diverge again: a step's random numbers hang on its place alone.
    run.reshuffle()
    run.observer.say(
        f"{error} Instead: back to step {run.step.steps_taken}, images in another order "
        f"({run.rollbacks} of {MOST_ROLLBACKS} times)"
    )
