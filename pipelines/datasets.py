"""Data sets by name."""

from __future__ import annotations

from pathlib import Path

from fastiseat.pipelines.base import DataSet
from fastiseat.pipelines.places import BUNDLED
from fastiseat.pipelines.prepare import find_store, prepare
from fastiseat.pipelines.progress import SILENT, Progress
from fastiseat.pipelines.releases import RELEASES

DATASETS = (*BUNDLED, *RELEASES)
"""The names; ``imagefolder:DIR`` and ``npz:PATH`` are own data."""


def load(name: str, *, data_dir: Path | None = None, progress: Progress = SILENT) -> DataSet:
    """The data set ``name``, its arrays mapped into memory and read-only; prepared first where only its files are.

    It is looked for in ``data_dir``, then ``$FASTISEAT_DATA``, then ``~/.cache/fastiseat``.

    Raises:
        UserError: an unknown name, files that are missing, damaged or not what they should be.
    """
    if name in BUNDLED:
        from fastiseat.pipelines.formats import digits  # scikit-learn takes a second to import

        return digits.read()
    store = find_store(name, data_dir=data_dir) or prepare(name, data_dir=data_dir, progress=progress)
    return store.open()
