"""How accurate a run's network is: after each epoch, to choose the best weights by, and at the end."""

from __future__ import annotations

import time

from fastiseat import models
from fastiseat.checkpoint import WEIGHTS
from fastiseat.checkpoint.recorded import SHA256, require_recorded
from fastiseat.evaluation import Attack, Evaluator, NotFiniteError, attack_named
from fastiseat.pipelines.protocol.base import Split
from fastiseat.report.reader import MetricsRow
from fastiseat.run.metrics import diverged
from fastiseat.run.rescue import heed_signals
from fastiseat.run.state import Run


def validate(run: Run) -> MetricsRow:
    """Clean and attacked accuracy of the weights as they are, and the seconds that it took."""
    began = time.perf_counter()
    split, name = run.data.selection, run.data.selection_name
    clean, pgd = _attack(run, "clean"), _attack(run, "pgd")
    try:
        row = {
            f"{name}_clean": accuracy(run, run.evaluator, split, clean),
            f"{name}_pgd10": accuracy(run, run.evaluator, split, pgd),
        }
    except NotFiniteError as error:
        raise diverged(f"{error.finding}, in epoch {len(run.rows) + 1}'s validation") from error
    return row | {"validation_seconds": time.perf_counter() - began}


def is_best(run: Run, row: MetricsRow) -> bool:
    """Whether no epoch before was better. Ties take the later epoch (released code)."""
    return all(score(run, row) >= score(run, earlier) for earlier in run.rows if earlier["best"])


def score(run: Run, row: MetricsRow) -> float:
    """What the best weights are chosen by: accuracy under PGD-10, on clean images for ``none``."""
    attacked = run.step.method.attacked
    return float(row[f"{run.data.selection_name}_{'pgd10' if attacked else 'clean'}"])


def final(run: Run, which: str) -> MetricsRow:
    """Accuracy on the test set of one of the two weight files, as written."""
    chosen = [row for row in run.rows if row["best"] or which == "last"][-1]
    file = run.directory.path / WEIGHTS[which]
    # By its digest: between the last epoch and now the file may have been replaced.
    require_recorded(file)
    model = models.load_model(file).to(run.device)
    # A new one, since recordings of the run's evaluator are of the network that was trained.
    evaluator = Evaluator(model, engine="auto", say=run.observer.say)
    attacks = [_attack(run, "clean"), _attack(run, "pgd")]
    if steps := run.config.run.final_steps:
        attacks.append(_attack(run, "pgd", steps=steps))
    accuracies = {attack.name: accuracy(run, evaluator, run.data.test, attack) for attack in attacks}
    return {"weights": which, "epoch": chosen["epoch"], SHA256: chosen.get(SHA256), "accuracy": accuracies}


def _attack(run: Run, name: str, **steps: int) -> Attack:
    """In the ball that is trained against."""
    return attack_named(name, eps=run.config.attack.eps, norm=run.config.attack.norm, **steps)


def accuracy(run: Run, evaluator: Evaluator, split: Split, attack: Attack) -> float:
    """Under ``attack``; a signal ends the run between two batches."""

    def progress(done: int) -> None:
        run.observer.evaluating(attack.name, done, len(split))
        heed_signals(run)

    return float(evaluator(split, attack, progress=progress).mean())
