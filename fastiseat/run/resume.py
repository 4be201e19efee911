"""Going on from a run's last checkpoint, on the images and with the networks that it began with."""

from __future__ import annotations

from contextlib import suppress

from fastiseat.checkpoint import Found, digests
from fastiseat.checkpoint.content import Expected
from fastiseat.checkpoint.turn import turn
from fastiseat.errors import UserError
from fastiseat.run.provenance import extra_fingerprint, network_fingerprint
from fastiseat.run.state import Run
from fastiseat.run.threads import as_begun, begun_with

# More would only hide that the settings do not work.
MOST_ROLLBACKS = 3


def restore(run: Run) -> None:
    """Take over the newest checkpoint that is whole, where there is one.

    Raises:
        UserError: the images, the extra ones or the standard network are others now.
    """
    newest = run.directory.checkpoints.newest()
    if newest is None:
        return
    # Before anything is taken over: a run that refuses has changed nothing.
    _require_same_images(run)
    found = latest(run)
    assert found is not None
    for line in found.skipped:
        run.observer.say(line)
    threads = run.threads
    # The count decides how sums are cut: with another one the run would go on to other bits.
    if run.device.type == "cpu" and not threads.why and (count := begun_with(run.directory.stored())):
        threads = as_begun(count)
    run.model.load_state_dict(found.state["model"])
    run.step.load_state_dict(found.state["step"])
    run.restored_from(newest, found.state, threads)


def restore_weights(run: Run, *, anew: bool = False) -> None:
    """Have the files be those that the rows tell of."""
    if not run.rows:
        return
    epochs = -(-run.total_steps // len(run.loader))
    check, anyway = expected(run).check, run.resume_anyway
    run.weights.restore(run.rows, check, epochs=epochs, more=not run.is_over, anew=anew, anyway=anyway)


def latest(run: Run) -> Found | None:
    """The newest checkpoint that is whole and the run's."""
    return run.directory.checkpoints.latest(expected(run).check)


def expected(run: Run) -> Expected:
    """What a checkpoint of the run holds."""
    name = run.data.selection_name
    return Expected(
        digests=digests(run.directory.stored()),
        model=run.model.state_dict(),
        check_step=run.step.check_state_dict,
        scores=(f"{name}_clean", f"{name}_pgd10"),
        epoch_steps=len(run.loader),
        rollbacks=MOST_ROLLBACKS,
    )


def say_what_turns(run: Run) -> None:
    """What the settings that the run goes on with change in its next epoch."""
    with suppress(UserError):  # settings of another version, which nobody can go on with unchanged
        moved = turn(run.directory.stored_config(), run.config, len(run.rows))
        if moved:
            run.observer.say(moved)


def _require_same_images(run: Run) -> None:
    """And the same standard network: what a run goes on with is what it began with."""
    stored = run.directory.stored()
    found_now = {"data": run.data.whole.fingerprint, "extra": extra_fingerprint(run.data.extra)}
    for what, fingerprint in found_now.items():
        if stored.get(f"{what}_fingerprint") != fingerprint:
            raise _other_images(run, what, stored.get(f"{what}_fingerprint"), fingerprint)
    if stored.get("standard_fingerprint") != network_fingerprint(run.standard):
        raise UserError(
            f"{run.directory.path} was trained with another standard network than "
            f"{run.config.objective.standard} holds now: bring that back, or choose another --out"
        )


def _other_images(run: Run, what: str, before: str | None, now: str | None) -> UserError:
    whole, extra = run.data.whole, run.config.data.extra
    which, where = (whole.name, whole.prepared or "its package") if what == "data" else (what, extra)
    return UserError(
        f"{run.directory.path} was trained on other {which} images than are found now in {where}: their "
        f"fingerprint was {before}, it is {now}; bring those back, or choose another --out"
    )
