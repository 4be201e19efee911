"""Data sets by name."""

from __future__ import annotations

from pathlib import Path

from fastiseat.pipelines.data.locations import BUNDLED, wanted
from fastiseat.pipelines.data.prepare import current_store
from fastiseat.pipelines.data.readers import read_bundled
from fastiseat.pipelines.protocol.base import DataSet
from fastiseat.pipelines.protocol.progress import SILENT, Progress
from fastiseat.pipelines.protocol.releases import RELEASES

DATASETS = (*BUNDLED, *RELEASES)
"""The names; ``imagefolder:DIR`` and ``npz:PATH`` are own data."""


def load(
    name: str,
    *,
    data_dir: Path | None = None,
    prepared: Path | None = None,
    expected: str | None = None,
    progress: Progress = SILENT,
) -> DataSet:
    """The data set ``name``, its arrays mapped into memory and read-only; prepared first where only its files are,
    and anew where these have changed since.

    It is looked for in ``data_dir``, then ``$FASTISEAT_DATA``, then ``~/.cache/fastiseat``. A run passes what it was
    trained on: the folder of its ``prepared`` arrays, which comes first, and their fingerprint as ``expected``:
    arrays that have it are not made anew, whatever has become of their source.

    Raises:
        UserError: an unknown name; files that are missing, damaged or not what they should be; a source that has
            changed since the expected arrays were prepared from it.
    """
    if name in BUNDLED:
        return read_bundled(name)
    return current_store(name, data_dir=data_dir, prepared=prepared, expected=expected, progress=progress).open()


def absolute(name: str) -> str:
    """The name, which means the same data in every working directory."""
    return name if name in DATASETS else wanted(name).name
