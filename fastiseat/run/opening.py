"""Before a run's first step: its directory is taken, its end rehearsed, its settings noted."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from fastiseat import models
from fastiseat.checkpoint import DIGESTS, WEIGHTS, RunDirectory, digests
from fastiseat.evaluation import Evaluator, attack_named
from fastiseat.report.curves import draw_title
from fastiseat.run.provenance import provenance
from fastiseat.run.resume import restore, restore_weights
from fastiseat.run.state import Run

# Pixels of an image that the rehearsal looks at, from its corner.
CORNER = 8


def take(run: Run) -> None:
    """Decide about the directory again, now that it is ours: another run may have had it since the first look."""
    RunDirectory.open(run.directory.path, run.config, resume=run.resume, anyway=run.resume_anyway)
    run.directory.sweep()
    # Read once more only where there is a newer one: a checkpoint of a large network takes its time.
    if run.resume and run.directory.checkpoints.newest() != run.restored:
        restore(run)
    restore_weights(run)


def rehearse(run: Run) -> None:
    """The closing steps before the first one: weights written, read back, attacked on an image, results, a title.
    Of the image a corner, which any network takes, and which costs a Wide ResNet on a CPU no seconds.

    What can't be done at the end, for want of space, rights or names, is told now, and leaves nothing.
    """
    with run.directory.scratch() as scratch:
        scratch.write_weights("last", run.model, run.metadata({"epoch": 0}, run.digest))
        model = models.load_model(scratch.path / WEIGHTS["last"]).to(run.device)
        evaluator = Evaluator(model, engine="eager", say=lambda line: None)
        image, attack = run.data.test.take(np.arange(1)), attack_named("pgd", eps=0, steps=1)
        corner = replace(image, images=image.images[:, :CORNER, :CORNER])
        scratch.write_metrics([{"accuracy": float(evaluator(corner, attack).mean())}])
        scratch.write_results([])
    draw_title(run.directory.path)


def begin(run: Run) -> None:
    """Have ``config.json`` say what is trained, where and with what."""
    run.begun_under(_digests(run))
    if run.step.steps_taken:
        # The checkpoint decides: the file lacks its last row if the run was stopped between writing the two.
        run.write_metrics()
        if not run.resume_anyway:
            given = {"options": run.options} if run.options else {}
            run.directory.note(**{DIGESTS: run.digests}, **given)
            return
    where = provenance(
        run.device,
        run.precision,
        run.data.whole,
        run.data.extra,
        standard=run.standard,
        init_fingerprint=run.init_fingerprint,
        loader=run.loading.name,
        verified=run.verified,
        execution=asdict(run.execution) | {"engine": run.step.engine.name},
        approximations=run.config.approximations,
    )
    run.directory.write_config(run.config, {**where, DIGESTS: run.digests, "options": run.options})


def _digests(run: Run) -> list[str]:
    """Of all settings that this run has had, the present ones' last: they are in ``config.json`` before anything
    else is written, as what was made before they changed remains the run's.
    """
    before = digests(run.directory.stored()) if run.resume and not run.directory.is_free() else []
    if before and run.step.steps_taken and not run.resume_anyway:
        return before
    return [*(each for each in before if each != run.digest), run.digest]
