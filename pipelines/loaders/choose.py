"""The loader of a run by its name: what it needs is prepared first, and ``auto`` is decided and explained."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fastiseat.errors import UserError, unknown
from fastiseat.pipelines.data.locations import roots
from fastiseat.pipelines.data.prepare_encoded import WITH_JPEG_FILES, encode
from fastiseat.pipelines.loaders.jpeg import JpegLoader
from fastiseat.pipelines.loaders.mix import MixedLoader
from fastiseat.pipelines.loaders.prefetch import Prefetched
from fastiseat.pipelines.loaders.resident import ResidentLoader, resident_bytes
from fastiseat.pipelines.loaders.torch import TorchLoader
from fastiseat.pipelines.protocol.base import DataSet, Loader, Split
from fastiseat.pipelines.protocol.memory import free_bytes
from fastiseat.pipelines.protocol.order import Order
from fastiseat.pipelines.protocol.progress import SILENT, Progress
from fastiseat.pipelines.stores.beton import PREPARED_AS, Beton, write_beton
from fastiseat.pipelines.stores.beton_format import Kind
from fastiseat.pipelines.stores.encoded import EncodedSplit
from fastiseat.pipelines.stores.encoded_store import EncodedStore
from fastiseat.pipelines.stores.store import Store
from fastiseat.pipelines.stores.writer import in_bytes

LOADERS = ("resident", "ffcv", "dali", "torch")
AUTO = "auto"
# Of the memory that is free before the network is trained: activations need the rest.
_RESIDENT_SHARE = 0.25
_MOST_WORKERS = 8


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a run trains on, and where all of it comes from.

    Attributes:
        whole: the data set.
        split: the part of its training images that the run uses.
        rows: int64, the place of each of them in ``whole.train``; None if they are all of them.
        data_dir: where the data set is looked for.
    """

    whole: DataSet
    split: Split
    rows: npt.NDArray[np.int64] | None = None
    data_dir: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A loader whose batches lie on the device, its name, and a line about the choice.

    ``verified`` tells whether files of its own, beside the prepared arrays, were compared with what was written.
    """

    loader: Loader
    name: str
    why: str
    verified: bool = True


def load(
    name: str,
    training: Training,
    order: Order,
    *,
    images: Kind = "packed",
    device: torch.device,
    progress: Progress = SILENT,
) -> Chosen:
    """The loader ``name``, one of :data:`LOADERS` or ``auto``, in ``order``.

    ``images`` are ``packed`` pixels, or the ``jpeg`` files that they came in, decoded anew in every epoch.
    ``progress`` is told of what is prepared first.

    Raises:
        UserError: an unknown name, a library that is not installed, images that don't fit or are no JPEG files.
    """
    check(name, dataset=training.whole.name, images=images)
    why = ""
    if name == AUTO:
        name, why = choose(training.split, images=images, device=device)
    make = {
        "resident": _resident,
        "torch": _torch,
        "ffcv": _ffcv,
        "dali": _dali,
    }[name]
    loader = make(training, order, images, device, progress)
    return Chosen(
        loader=on_device(device, loader),
        name=name,
        why=why or _told(name, training.split),
        verified=_verified(name, training, images),
    )


def check(name: str, *, dataset: str, images: Kind) -> None:
    """:class:`UserError` for what :func:`load` refuses whatever the images are."""
    if name not in (*LOADERS, AUTO):
        raise unknown("loader", name, (*LOADERS, AUTO))
    if images == "jpeg" and name == "resident":
        raise UserError("--loader resident holds decoded images: take --images packed, or another loader")
    if images == "jpeg" and dataset.partition(":")[0] not in WITH_JPEG_FILES:
        raise UserError(f"--images jpeg: {dataset} has no JPEG files; leave it out")
    if name in ("ffcv", "dali"):
        import_module(f"fastiseat.pipelines.loaders.{name}").library()


def with_extra(chosen: Chosen, extra: Split, order: Order, *, device: torch.device) -> Chosen:
    """Batches of ``chosen``, each followed by one of ``extra`` in an order of its own.

    Extra images are packed: beside any loader they are gathered by indexing, on the device beside a resident one if
    they fit there too.
    """
    name = choose(extra, images="packed", device=device)[0] if chosen.name == "resident" else "torch"
    loader = ResidentLoader(extra, order, device=device) if name == "resident" else TorchLoader(extra, order)
    return Chosen(
        loader=MixedLoader(chosen.loader, on_device(device, loader)),
        name=chosen.name,
        why=f"{chosen.why}; {len(extra):,} extra images: {_told(name, extra)}",
        verified=chosen.verified,
    )


def choose(split: Split, *, images: Kind, device: torch.device) -> tuple[str, str]:
    """What ``auto`` takes, and why."""
    if images == "jpeg":
        return _choose_decoder()
    needed, free = resident_bytes(split), free_bytes(device)
    if needed <= _RESIDENT_SHARE * free:
        return "resident", _told("resident", split)
    return "torch", (
        f"torch: {in_bytes(needed)} of images are more than a quarter of the {in_bytes(free)} that are free on {device}"
    )


def auto_in_words() -> str:
    """What ``auto`` would take, whatever the data set."""
    return (
        "resident where a quarter of the device's free memory holds the images, else torch; "
        f"{_choose_decoder()[0]} for --images jpeg"
    )


def _choose_decoder() -> tuple[str, str]:
    for name, library in {"ffcv": "ffcv", "dali": "nvidia.dali"}.items():
        if _installed(library):
            return name, f"{name}, which decodes JPEG files"
    return (
        "torch",
        "torch: Pillow decodes the JPEG files; FFCV is several times as fast: pip install 'fastiseat[ffcv]'",
    )


def _installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:  # of the package that it would be in
        return False


def _told(name: str, split: Split) -> str:
    return f"resident, {in_bytes(resident_bytes(split))} in the device's memory" if name == "resident" else name


def on_device(device: torch.device, loader: Loader) -> Loader:
    """The same batches on ``device``, on their way while the step before them runs.

    On a CPU they are there already, and a thread of their own would take a core from the training.
    """
    return loader if device.type == "cpu" or isinstance(loader, ResidentLoader) else Prefetched(loader, device)


def _resident(training: Training, order: Order, images: Kind, device: torch.device, _progress: Progress) -> Loader:
    assert images == "packed"
    require_room(training.split, device)
    return ResidentLoader(training.split, order, device=device)


def require_room(split: Split, device: torch.device) -> None:
    """:class:`UserError` where the device's free memory does not hold the images, which are to be resident."""
    needed, free = resident_bytes(split), free_bytes(device)
    if needed > free:
        raise UserError(
            f"--loader resident: {in_bytes(needed)} of images do not fit into the {in_bytes(free)} that are free on "
            f"{device}; take --loader torch, or use fewer with --limit-train"
        )


def _torch(training: Training, order: Order, images: Kind, _device: torch.device, progress: Progress) -> Loader:
    if images == "packed":
        return TorchLoader(training.split, order)
    return JpegLoader(_encoded(training.whole, progress), order, rows=training.rows, workers=workers())


def _dali(training: Training, order: Order, images: Kind, device: torch.device, progress: Progress) -> Loader:
    from fastiseat.pipelines.loaders.dali import DaliLoader

    make = partial(DaliLoader, order=order, device=device, workers=workers())
    if images == "packed":
        return make(training.split)
    return make(_encoded(training.whole, progress), rows=training.rows)


def _ffcv(training: Training, order: Order, images: Kind, _device: torch.device, progress: Progress) -> Loader:
    from fastiseat.pipelines.loaders.ffcv import FfcvLoader

    beton = ensure_beton(training.whole, images, data_dir=training.data_dir, progress=progress)
    return FfcvLoader(beton, order, rows=training.rows, workers=workers())


def _verified(name: str, training: Training, images: Kind) -> bool:
    """Of what the loader reads beside the prepared arrays; :class:`UserError` where it is damaged."""
    whole = training.whole
    held: Beton | EncodedStore | None = None
    if name == "ffcv":
        held = Beton.at(beton_path(whole, images, data_dir=training.data_dir))
    elif images == "jpeg" and whole.prepared is not None:
        held = EncodedStore.at(EncodedStore.beside(whole.prepared))
    return held is None or held.verified()


def _encoded(whole: DataSet, progress: Progress) -> EncodedSplit:
    packed = None if whole.prepared is None else Store.at(whole.prepared)
    if packed is None:
        raise UserError(f"--images jpeg: {whole.name} has no JPEG files; leave it out")
    store = encode(packed, progress=progress)
    store.check(name=whole.name, fingerprint=whole.fingerprint)
    return store.open()


def ensure_beton(
    whole: DataSet,
    images: Kind,
    *,
    data_dir: Path | None,
    force: bool = False,
    progress: Progress = SILENT,
) -> Beton:
    """The training images as FFCV reads them, beside the prepared arrays; written now unless these very ones are."""
    path = beton_path(whole, images, data_dir=data_dir)
    beton = None if force else Beton.at(path)
    if beton is None or beton.info.fingerprint != whole.fingerprint:
        content = whole.train if images == "packed" else _encoded(whole, progress)
        path.parent.mkdir(parents=True, exist_ok=True)
        beton = write_beton(path, content, name=whole.name, fingerprint=whole.fingerprint, progress=progress)
    beton.check(name=whole.name, fingerprint=whole.fingerprint, kind=images)
    return beton


def beton_path(whole: DataSet, images: Kind, *, data_dir: Path | None) -> Path:
    """The folder for FFCV's form of a data set."""
    packed = whole.prepared or roots(data_dir)[0] / "prepared" / whole.name
    return packed.with_name(f"{packed.name}.{PREPARED_AS[images]}")


def workers() -> int:
    """Threads that decode."""
    return min(_MOST_WORKERS, os.cpu_count() or 1)
