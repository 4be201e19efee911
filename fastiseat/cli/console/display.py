"""What a run shows: a progress bar in a terminal, a line an interval elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from fastiseat.cli.console.progress import time_left
from fastiseat.cli.console.tables import titled_table
from fastiseat.cli.console.terminal import Terminal, print_line
from fastiseat.cli.machine import without_native
from fastiseat.names.balls import ball_words
from fastiseat.report.marks import data_mark
from fastiseat.report.reader import MetricsRow
from fastiseat.run.trainer import Trainer

# Seconds between two readings of a metric, which make the host wait for the device.
TERMINAL_INTERVAL, PLAIN_INTERVAL = 1.0, 10.0
_AFTER_TRAINING = "test set"


class Display:
    """A :class:`fastiseat.run.observer.Observer` for people."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Terminal()
        self.quiet = quiet
        self.interval = TERMINAL_INTERVAL if self.console.is_terminal else PLAIN_INTERVAL
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            speed_estimate_period=float("inf"),  # or a validation of 30 seconds would leave it nothing to go by
            disable=quiet or not self.console.is_terminal,
        )
        self._epochs = self._batches = self._images = self._first = self._total = 0
        self._began = self._shown = self._heard = self._evaluation_began = time.perf_counter()
        self._where, self._evaluated, self._task = _AFTER_TRAINING, "", TaskID(0)

    @contextmanager
    def showing(self, trainer: Trainer) -> Iterator[None]:
        """Show ``trainer``'s run in the block."""
        self._epochs, self._batches, self._images = trainer.config.schedule.epochs, len(trainer.loader), 0
        self._first, self._total = trainer.step.steps_taken, trainer.total_steps
        self._began = self._shown = self._heard = time.perf_counter()
        self._where, self._evaluated = _AFTER_TRAINING, ""
        self._task = self._progress.add_task("starting", total=self._total, completed=self._first, status="")
        if not self.quiet:
            for line in _heading(trainer):
                self._line(line)
        with self._progress:
            yield

    def step(self, *, epoch: int, step: int, images: int, metrics: dict[str, Tensor]) -> None:
        """Count the step; read and show its loss once an interval."""
        self._images += images
        done, now = epoch * self._batches + step + 1, time.perf_counter()
        self._heard, self._where = now, f"epoch {epoch + 1}/{self._epochs}"
        self._progress.update(self._task, completed=done, description=self._where)
        if not self._is_time(now):
            return
        status = f"loss {float(metrics['loss']):.3f}  {pace_text(self._images / (now - self._began))}"
        self._progress.update(self._task, status=status)
        if not self.console.is_terminal:
            left = time_left(done - self._first, self._total - done, now - self._began)
            self._line(f"{self._where}  step {step + 1}/{self._batches}  {status}  {left}")

    def epoch(self, row: MetricsRow) -> None:
        """The epoch's accuracies, above the bar in a terminal."""
        if not self.quiet:
            self._line(epoch_line(row, self._epochs))
        self._shown = self._heard = time.perf_counter()
        self._where = _AFTER_TRAINING

    def evaluating(self, what: str, done: int, total: int) -> None:
        """Where an evaluation stands, and the time that it still takes; a line once an interval."""
        now = time.perf_counter()
        if what != self._evaluated:  # it began when the last thing was heard of
            self._evaluated, self._evaluation_began = what, self._heard
        self._heard = now
        status = f"{what} {done}/{total}  {time_left(done, total - done, now - self._evaluation_began)}"
        if done == total:
            self._evaluated = ""
        self._progress.update(self._task, description=self._where, status=status)
        if not self.console.is_terminal and self._is_time(now):
            self._line(f"{self._where}  {status}")

    def _is_time(self, now: float) -> bool:
        """Once an interval."""
        if self.quiet or now - self._shown < self.interval:
            return False
        self._shown = now
        return True

    def say(self, line: str) -> None:
        """A notice, however quiet the run."""
        self._line(line)

    def _line(self, text: str) -> None:
        print_line(self.console, text)


def pace_text(images_per_second: float) -> str:
    """Images a second, with a decimal where they are few."""
    return f"{images_per_second:.{0 if images_per_second >= 10 else 1}f} images/s"


def epoch_line(row: MetricsRow, epochs: int) -> str:
    """An epoch in one line."""
    accuracies = [
        f"{name.replace('_', ' ')} {100 * row[name]:.1f}%"
        for name in ("val_clean", "val_pgd10", "test_clean", "test_pgd10")
        if name in row
    ]
    return "  ".join(
        [
            f"epoch {row['epoch'] + 1}/{epochs}",
            f"lr {row['lr']:g}",
            f"loss {row['train_loss']:.3f}",
            *accuracies,
            pace_text(row["images_per_second"]),
            *(["best"] if row["best"] else []),
        ]
    )


def _heading(trainer: Trainer) -> Iterator[str]:
    config = trainer.config
    yield (
        f"{config.objective.method} on {config.data.dataset}, {config.network.arch}, {trainer.device}, "
        f"{config.schedule.epochs} epochs of {len(trainer.loader)} steps{_data_mark(trainer)} "
        f"-> {trainer.directory.path}"
    )
    yield f"loader: {trainer.loading.why}"
    yield f"engine: {trainer.step.engine.name}"
    if trainer.threads.why:
        yield f"threads: {trainer.threads.why}"
    if slower := without_native(trainer.device):
        yield f"kernels: {slower}"
    yield from (f"approximate: {setting}" for setting in config.approximations)


def _data_mark(trainer: Trainer) -> str:
    return data_mark(trainer.data.whole.official, verified=trainer.verified)


def result_table(trainer: Trainer, results: list[dict[str, Any]]) -> Table:
    """Test accuracy of best and last weights, a column an attack."""
    config = trainer.config
    title = f"{config.objective.method} on {config.data.dataset}, test accuracy, "
    title += f"{ball_words(config.attack.norm).lead}ε = {config.attack.eps:.4g}"
    table = titled_table(title + _data_mark(trainer))
    table.add_column("weights")
    table.add_column("epoch", justify="right")
    for attack in results[0]["accuracy"]:
        table.add_column(attack, justify="right")
    for result in results:
        cells = [f"{100 * accuracy:.2f}%" for accuracy in result["accuracy"].values()]
        table.add_row(result["weights"], str(result["epoch"] + 1), *cells)
    return table
