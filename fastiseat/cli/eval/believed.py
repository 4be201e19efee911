"""Which images a weights file may name itself: by a place on the disk only those that lie prepared as its run had them.

A file from elsewhere would else choose what is opened here, and beside what is written, as preparing does.
"""

from __future__ import annotations

from pathlib import Path

from fastiseat.checkpoint import RunImages
from fastiseat.errors import UserError
from fastiseat.pipelines.data.locations import is_place
from fastiseat.pipelines.data.prepare import find_store
from fastiseat.pipelines.stores.store import Store
from fastiseat.safe import plain


def require_believable(file: Path, trained: RunImages, *, meant: bool) -> None:
    """:class:`UserError` where ``file`` names a place whose images are not the prepared ones of the run it lies in.

    Args:
        file: the weights.
        trained: what it and the run's directory around it tell; ``prepared`` by that directory alone.
        meant: whether the user says nothing of the data; else its folder is theirs.
    """
    if trained.name is None or not is_place(trained.name):
        return
    if trained.prepared is None:
        raise UserError(
            f"{file} was trained on {plain(trained.name)}, which a weights file alone can't choose: if that is what "
            "you mean, say so by --dataset"
        )
    if not meant:
        return
    stores = [store for store in (Store.at(trained.prepared), find_store(trained.name)) if store is not None]
    found = {store.info.fingerprint: store.path for store in reversed(stores) if store.info.name == trained.name}
    if not found:
        raise UserError(
            f"{file} was trained on {plain(trained.name)}, of which nothing is prepared: if it is to be, say so by "
            "--dataset"
        )
    if trained.fingerprint not in found:
        fingerprint, path = next(iter(found.items()))
        raise UserError(f"{differ(file, trained, str(path), fingerprint)}: {MEANT}")


MEANT = "bring those back, or say by --dataset or --data-dir that these are meant"


def differ(file: Path, trained: RunImages, where: str, fingerprint: str) -> str:
    """That other images are found than those that ``file`` was trained on."""
    return (
        f"{file} was trained on images of {trained.name} with the fingerprint {trained.fingerprint}; those in {where} "
        f"have {fingerprint}"
    )
