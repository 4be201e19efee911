"""Weights files are those that their run recorded, or are refused: by their SHA-256 and by whose run they are of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastiseat.checkpoint.directory import WEIGHTS, RunDirectory
from fastiseat.checkpoint.identity import RUN, digests, short
from fastiseat.errors import UserError
from fastiseat.models.files.checksum import Told, told
from fastiseat.report.reader import MetricsRow, read_metrics

SHA256 = "weights_sha256"
"""The name in a line of ``metrics.jsonl`` of the checksum of the weights file that its epoch wrote."""


def require_recorded(file: Path) -> None:
    """:class:`UserError` where ``file`` is one of a run's weights, and not the one that the run wrote.

    What no line of ``metrics.jsonl`` speaks of yet is taken: weights are written before the line.
    """
    place = file.absolute()
    run = place.parents[1]
    which = next((which for which, name in WEIGHTS.items() if run / name == place), None)
    if which is None or not (run / "config.json").exists() or not file.exists():
        return
    # Before the weights are looked at: a run that is under way may replace both.
    rows = read_metrics(run) if (run / "metrics.jsonl").exists() else []
    try:
        found = told(file)
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read ({error.strerror}); check the file and its permissions"
        ) from error
    if wrong := _wrong(found, which, rows, digests(RunDirectory(run).stored())):
        raise UserError(
            f"{file} {wrong}: restore it, have it restored by {RunDirectory(run).resuming()}, or copy it out of the "
            "run's folder to take it as it is"
        )


def _wrong(found: Told, which: str, rows: list[MetricsRow], own: list[str]) -> str:
    run = found.metadata.get(RUN)
    if run is not None and run not in own:
        return f"is of another run, {short(run)}; its folder's is {short(own[-1])}"
    row = next((row for row in rows if str(row.get("epoch")) == found.metadata.get("epoch")), None)
    chosen = row_of(which, rows)
    if row is None or chosen is None or SHA256 not in row:
        return ""
    if row[SHA256] != found.sha256:
        return (
            f"is not what its run wrote: SHA-256 {short(found.sha256)}, and metrics.jsonl has {short(row[SHA256])}"
        )
    if _is_before(row["epoch"], chosen.get("epoch")):
        return f"is of epoch {row['epoch'] + 1}, and its run's {which} weights are of epoch {chosen['epoch'] + 1}"
    return ""


def _is_before(epoch: object, chosen: object) -> bool:
    return isinstance(epoch, int) and isinstance(chosen, int) and epoch < chosen


def row_of(which: str, rows: list[MetricsRow]) -> MetricsRow | None:
    """The epoch whose weights are the ``best`` or the ``last``."""
    return next((row for row in reversed(rows) if row.get("best") or which == "last"), None)


def is_recorded(found: Told | None, row: Mapping[str, Any]) -> bool:
    """Whether a file is the one of an epoch's row; those of earlier versions do not tell."""
    return SHA256 not in row or (found is not None and found.sha256 == row[SHA256])
