"""The one reader of a run's directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastiseat.errors import UserError
from fastiseat.safe import read_file
from fastiseat.safe.reading import TEXT

MetricsRow = dict[str, Any]
"""A line of ``metrics.jsonl``."""


def read_metrics(run: Path) -> list[MetricsRow]:
    """The lines of ``metrics.jsonl``, one an epoch; :class:`UserError` where there are none to read."""
    path = run / "metrics.jsonl"
    try:
        rows = [json.loads(line) for line in read_file(path, most=TEXT).decode().splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read: {error}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} can't be read: a line of it is no object; restore the file")
    return rows
