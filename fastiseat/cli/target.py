"""What a command's TARGET stands for. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from fastiseat.errors import UserError
from fastiseat.models.files.shipped import shipped


def weights_file(target: Path, which: str) -> Path:
    """What ``target`` stands for: a weights file, one of a run, or one that comes with the package.

    :class:`UserError` where a run lacks it, or did not write what is there.
    """
    from fastiseat.checkpoint import WEIGHTS
    from fastiseat.checkpoint.recorded import require_recorded

    file = target / WEIGHTS[which] if target.is_dir() else shipped(target) or target
    require_recorded(file)
    if file.exists() or not target.is_dir():
        return file
    raise UserError(f"{target} holds no {WEIGHTS[which]}: give a run that finished an epoch, or a file")
