"""Writes a store: into a folder beside it that takes its name when all is on the disk, one process at a time."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.lib.format as npy
import numpy.typing as npt

from fastiseat.errors import UserError
from fastiseat.lock import Claim, hold
from fastiseat.pipelines.protocol.failures import write_failures_told
from fastiseat.pipelines.protocol.progress import Progress
from fastiseat.pipelines.protocol.source import Source
from fastiseat.pipelines.stores.store import FORMAT, Info, Store
from fastiseat.safe import open_lock
from fastiseat.safe.writing import flush_folder
from fastiseat.version import __version__

_NO_FOLDER_OF_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
"""What tells that a folder is nobody's to write into, or none: all else passes, and is mended rather than avoided."""

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def first_writable(stores: Iterable[Path]) -> Path:
    """The first of ``stores`` whose folder may be written, which is made.

    Raises:
        UserError: none may, or one that may can't be, as on a full disk.
    """
    problem = ""
    for store in stores:
        try:
            store.parent.mkdir(parents=True, exist_ok=True)
            # Tried, not asked of permission bits, which say nothing of a file system that is mounted read-only.
            os.close(open_lock(_lock_file(store)))
        except OSError as error:
            problem = problem or f"cannot write {store}: {error.strerror}; choose another --data-dir"
            if error.errno not in _NO_FOLDER_OF_OURS:
                break
        else:
            return store
    raise UserError(problem)


@contextmanager
def exclusive(store: Path, progress: Progress) -> Iterator[None]:
    """Let no other process write ``store`` in the block, and remove what a killed one left."""
    claim = Claim(of=store, file=_lock_file(store), doing="prepared", elsewhere="--data-dir")
    with hold(claim, say=progress.say, wait=True):
        try:
            _discard_unfinished(store)
            yield
        finally:
            _discard_unfinished(store)


def write(
    store: Path,
    source: Source,
    *,
    name: str,
    image_size: int | None,
    began: float,
    progress: Progress,
    beside: Mapping[str, bytes] | None = None,
) -> Store:
    """Make ``store`` hold ``source`` and nothing else. The caller holds :func:`exclusive`, and ``began`` when
    ``time.perf_counter()`` said so. ``beside`` are further files, by name.

    Pixels are written block by block, not through a mapped file: there a full disk would be a crash.
    """
    _require_space(store, source, name, progress)
    with complete_folder(store) as temporary:
        for split, content in {"train": source.train, "test": source.test}.items():
            images = _counted(content.blocks(), f"{split} images", len(content.labels), progress)
            write_array(temporary / f"{split}_images.npy", content.shape, np.dtype(np.uint8), images)
            write_whole(temporary / f"{split}_labels.npy", content.labels)
        written = Store(path=temporary, info=_describe(source, name, image_size))
        # Computed from the files, and not from what was meant to be in them.
        info = replace(
            written.info,
            fingerprint=written.compute_fingerprint(progress),
            checksums=written.compute_checksums(),
            seconds=round(time.perf_counter() - began, 1),
        )
        for file, text in (beside or {}).items():
            write_flushed(temporary / file, text)
        write_info(temporary, info)
    return Store(path=store, info=info)


def discard(store: Path, progress: Progress) -> None:
    """Remove ``store``, which is gone from one moment to the next; whoever has it open keeps it."""
    with exclusive(store, progress), write_failures_told(store):
        # By a rename, as removing takes its time; exclusive() removes what has this name at its end.
        store.rename(_temporary(store))


@contextmanager
def complete_folder(store: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of ``store`` at the end of the block, unless that fails.

    The caller holds :func:`exclusive`. A failed write is told as a :class:`UserError` that names ``store``.
    """
    temporary = _temporary(store)
    with write_failures_told(store):
        temporary.mkdir()
        yield temporary
        _put_in_place(temporary, store)


def _describe(source: Source, name: str, image_size: int | None) -> Info:
    return Info(
        format=FORMAT,
        name=name,
        class_names=source.class_names,
        train_shape=source.train.shape,
        test_shape=source.test.shape,
        fingerprint="",
        official=source.official,
        remark=source.remark,
        source=source.where,
        md5s=dict(source.md5s),
        image_size=image_size,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=0.0,
        # The decoder of an image decides its last bit.
        versions={"fastiseat": __version__, "pillow": version("pillow")},
    )


def in_bytes(count: float) -> str:
    """``1.35 GB``, ``12.3 MB``, ``4.8 kB``."""
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _require_space(store: Path, source: Source, name: str, progress: Progress) -> None:
    splits = (source.train, source.test)
    needed = sum(math.prod(split.shape) + split.labels.nbytes for split in splits)
    free = shutil.disk_usage(store.parent).free
    height, width, _ = source.train.image_shape
    progress.say(
        f"{name}: {len(splits[0].labels):,} training and {len(splits[1].labels):,} test images of {width}×{height} in "
        f"{len(source.class_names)} classes; {in_bytes(needed)} on the disk, of {in_bytes(free)} free"
    )
    require_space(store, needed)


def require_space(store: Path, needed: int) -> None:
    """:class:`UserError` where fewer than ``needed`` bytes are free."""
    free = shutil.disk_usage(store.parent).free
    if needed > free:
        raise UserError(
            f"cannot write {store}: {in_bytes(needed)} are needed and {in_bytes(free)} are free; free space or choose "
            "another --data-dir"
        )


def _counted(
    blocks: Iterator[npt.NDArray[Any]], what: str, total: int, progress: Progress
) -> Iterator[npt.NDArray[Any]]:
    done = 0
    for block in blocks:
        yield block
        done += len(block)
        progress.count(what, done, total)
    assert done == total, f"{done} {what}, {total} labels"


def write_array(
    path: Path, shape: tuple[int, ...] | None, dtype: np.dtype[Any], blocks: Iterable[npt.NDArray[Any]]
) -> None:
    """The ``.npy`` file of an array that comes in ``blocks``; ``shape`` None: one-dimensional, as long as they are."""
    with path.open("wb") as file:
        # Of an unknown length a header is written first and again at the end, in the same room.
        _write_header(file, shape or (0,), dtype)
        begins, count = file.tell(), 0
        for block in blocks:
            assert block.dtype == dtype
            file.write(np.ascontiguousarray(block).data)
            count += len(block)
        if shape is None:
            file.seek(0)
            _write_header(file, (count,), dtype)
            assert file.tell() == begins, "numpy leaves room in a header for a longer first axis"
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, array: npt.NDArray[Any]) -> None:
    """The ``.npy`` file of an array."""
    write_array(path, array.shape, array.dtype, [array])


def write_info(folder: Path, info: DataclassInstance) -> None:
    """``info.json``, which tells what lies beside it."""
    write_flushed(folder / "info.json", (json.dumps(asdict(info), indent=2) + "\n").encode())


def write_flushed(path: Path, content: bytes) -> None:
    """A whole file, on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _write_header(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, header)


def _put_in_place(temporary: Path, store: Path) -> None:
    # Contents before the name: after a power cut the name may be there alone.
    flush_folder(temporary)
    # A folder that is not empty can't be renamed over. In between there is no store; whoever is killed there
    # leaves both, and the next one puts the old back.
    if store.exists():
        store.rename(_replaced(store))
    temporary.rename(store)
    flush_folder(store.parent)


def _lock_file(store: Path) -> Path:
    return store.with_name(f".{store.name}.lock")


def _temporary(store: Path) -> Path:
    return store.with_name(f".{store.name}.unfinished")


def _replaced(store: Path) -> Path:
    return store.with_name(f".{store.name}.replaced")


def _discard_unfinished(store: Path) -> None:
    if _replaced(store).exists() and not store.exists():
        _replaced(store).rename(store)  # the process that was replacing it was killed in between
    for folder in (_temporary(store), _replaced(store)):
        if folder.is_symlink():
            folder.unlink()  # what it points to is not ours
        shutil.rmtree(folder, ignore_errors=True)
