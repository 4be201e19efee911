"""What a command's TARGET stands for. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from fastiseat.errors import UserError


def weights_file(target: Path, which: str) -> Path:
    """The weights file that ``target``, a file or a run's directory, stands for."""
    from fastiseat.checkpoint import WEIGHTS

    if not target.is_dir():
        return target
    file = target / WEIGHTS[which]
    if not file.exists():
        raise UserError(f"{target} holds no {WEIGHTS[which]}: give a run that finished an epoch, or a file")
    return file
