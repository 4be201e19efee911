"""What a command's TARGET stands for. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from fastiseat.errors import UserError
from fastiseat.models.shipped import shipped


def weights_file(target: Path, which: str) -> Path:
    """What ``target`` stands for: a weights file, one of a run, or one that comes with the package."""
    from fastiseat.checkpoint import WEIGHTS

    if not target.is_dir():
        return shipped(target) or target
    file = target / WEIGHTS[which]
    if file.exists():
        return file
    raise UserError(f"{target} holds no {WEIGHTS[which]}: give a run that finished an epoch, or a file")
