"""The other forms that a data set is prepared in, which lie beside its packed arrays and are made of them."""

from __future__ import annotations

import json
from pathlib import Path

from fastiseat.pipelines.protocol.progress import Progress
from fastiseat.pipelines.stores.beton import PREPARED_AS
from fastiseat.pipelines.stores.encoded_store import EncodedStore
from fastiseat.pipelines.stores.store import Store
from fastiseat.pipelines.stores.writer import discard
from fastiseat.safe import read_file
from fastiseat.safe.reading import TEXT


def other_forms(packed: Store) -> dict[str, Path]:
    """The folders of those that are there, by their names in ``--format``."""
    paths = {"jpeg": EncodedStore.beside(packed.path)}
    paths |= {form: packed.path.with_name(f"{packed.path.name}.{form}") for form in PREPARED_AS.values()}
    return {form: path for form, path in paths.items() if path.exists()}


def is_current(path: Path, packed: Store) -> bool:
    """Whether the form in ``path`` is of these very arrays, by its description."""
    try:
        return bool(json.loads(read_file(path / "info.json", most=TEXT))["fingerprint"] == packed.info.fingerprint)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def discard_stale(packed: Store, progress: Progress) -> None:
    """Remove the forms of earlier arrays: training makes those that it needs anew."""
    for form, path in other_forms(packed).items():
        if not is_current(path, packed):
            progress.say(f"removed {path}: {form} of what was prepared before; made anew where it is used")
            discard(path, progress)
