"""Learning curves of a run as one picture."""

from __future__ import annotations

import io
import os
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastiseat.report.reader import MetricsRow, read_metrics
from fastiseat.safe import OwnFolder, plain

ACCURACIES = {
    "train_accuracy_clean": "train, clean",
    "train_accuracy_adversarial": "train, adversarial",
    "val_clean": "validation, clean",
    "val_pgd10": "validation, PGD-10",
    "test_clean": "test, clean",
    "test_pgd10": "test, PGD-10",
}
VULNERABILITY = {
    "av_step_top10": "top 10%",
    "av_step_mean": "mean",
    "av_step_bottom10": "bottom 10%",
    "av_step_sd": "SD",
}
LOSSES = {
    "train_loss_clean": "clean",
    "train_loss_adversarial": "adversarial",
    "train_loss_stability": "stability, weighted",
    "train_loss_helper": "helper images, weighted",
    "train_loss_distribution": "wrong classes, weighted",
}


def draw_curves(run: Path) -> Path:
    """``figures/curves.png``: accuracy, loss, adversarial vulnerability and learning rate by epoch, the best marked.

    :class:`UserError` where ``metrics.jsonl`` can't be read, or the picture not be written; it is complete or absent.
    """
    rows = read_metrics(run)
    figure = _figure(rows, title=title_of(run))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    name = Path("figures", "curves.png")
    OwnFolder(run).write(name, buffer.getvalue())
    return run / name


def title_of(run: Path) -> str:
    """The folder's name as a font can draw it, whatever its bytes and the locale are."""
    return plain(os.fsencode(run.absolute().name).decode("utf-8", "replace"))


def draw_title(run: Path) -> None:
    """The title alone, into nothing: what of a picture depends on the run's name."""
    figure = Figure(figsize=(1, 1))
    FigureCanvasAgg(figure)
    figure.suptitle(title_of(run), parse_math=False)
    figure.savefig(io.BytesIO(), format="png", dpi=20)


def _figure(rows: list[MetricsRow], *, title: str) -> Figure:
    epochs = [row["epoch"] + 1 for row in rows]  # pictures count from 1, as people do
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)  # no display, and none of pyplot's global state
    axes = figure.subplots(2, 2, sharex=True)
    panels: list[tuple[Axes, str, dict[str, str], float]] = [
        (axes[0, 0], "accuracy (%)", ACCURACIES, 100),
        (axes[0, 1], "training loss", LOSSES, 1),
        (axes[1, 0], "adversarial vulnerability (Eq. 13)", VULNERABILITY, 1),
        (axes[1, 1], "learning rate", {"lr": "lr"}, 1),
    ]
    best = next((row["epoch"] + 1 for row in reversed(rows) if row.get("best")), None)
    for axis, heading, names, scale in panels:
        for name, label in names.items():
            # A term that comes on later is missing from the first rows, or None there.
            known = [
                (epoch, row[name]) for epoch, row in zip(epochs, rows, strict=True) if row.get(name) is not None
            ]
            points = [(epoch, scale * value) for epoch, value in known]
            if points:
                axis.plot(*zip(*points, strict=True), label=label, marker="." if len(rows) < 30 else None)
        if names is LOSSES:
            axis.plot(*_loss_within_epochs(rows), color="0.6", linewidth=1, label="total, by step", zorder=1)
        measured = bool(axis.lines)
        if best is not None:
            axis.axvline(
                best, color="0.3", linewidth=1, linestyle="--", label=f"best weights: epoch {best}", zorder=1
            )
        axis.set_title(heading)
        axis.grid(alpha=0.3)
        if axis.lines:
            _legend_below(axis, ticks=axis in axes[1])
        if not measured:
            axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes, color="0.5")
    if any(row["lr"] > 0 for row in rows):
        axes[1, 1].set_yscale("log")
    for axis in axes[1]:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.suptitle(title, parse_math=False)  # a folder may be called a$b$
    return figure


def _legend_below(axis: Axes, *, ticks: bool) -> None:
    """Where no curve runs; under the numbers and the name of the axis, in the row that has them."""
    place = (0.5, -0.18 if ticks else -0.02)
    axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=place, ncols=3, frameon=False)


def _loss_within_epochs(rows: list[MetricsRow]) -> tuple[list[float], list[float]]:
    """The loss of each part of each epoch, and where on the axis of epochs the part ends."""
    losses = [(row["epoch"], row["train_loss_parts"]) for row in rows if "train_loss_parts" in row]
    ends = [epoch + (part + 1) / len(parts) for epoch, parts in losses for part in range(len(parts))]
    return ends, [loss for _, parts in losses for loss in parts]
