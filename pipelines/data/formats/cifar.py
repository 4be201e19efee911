"""CIFAR-10 and CIFAR-100 in their Python version: pickles of rows of 3072 bytes, a red, a green and a blue plane."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastiseat.errors import UserError
from fastiseat.pipelines.data.archives import read_bytes, read_tar
from fastiseat.pipelines.protocol.releases import RELEASES
from fastiseat.pipelines.protocol.source import Images, Labels, Source, SourceSplit, as_labels, in_blocks, released
from fastiseat.safe.reading import BATCH
from fastiseat.safe.unpickle import as_text, read_pickle


@dataclass(frozen=True, kw_only=True)
class _Layout:
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str


_LAYOUTS = {
    "cifar10": _Layout(
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test="test_batch",
        meta="batches.meta",
        labels="labels",
        names="label_names",
    ),
    "cifar100": _Layout(
        train=("train",), test="test", meta="meta", labels="fine_labels", names="fine_label_names"
    ),
}


def read_source(kind: str, path: Path, image_size: int | None) -> AbstractContextManager[Source]:
    """:func:`read`, as all readers are called."""
    return read(kind, path)


@contextmanager
def read(name: str, path: Path) -> Iterator[Source]:
    """``cifar10`` or ``cifar100`` from its ``.tar.gz`` or its unpacked folder; CIFAR-100 by its fine labels."""
    layout = _LAYOUTS[name]
    wanted = (*layout.train, layout.test, layout.meta)
    if path.is_dir():
        contents = {file: read_bytes(path / file, most=BATCH) for file in wanted}
    else:
        contents = read_tar(path, wanted)
        for file in wanted:
            if file not in contents:
                raise UserError(f"{path}: holds no {file}; fetch the official file")
    md5s = {file: hashlib.md5(contents[file], usedforsecurity=False).hexdigest() for file in wanted}

    def unpickled(file: str) -> tuple[dict[str, Any], str]:
        where = f"{path}/{file}" if path.is_dir() else f"{path}: {file}"
        return read_pickle(contents.pop(file), where), where

    def split(files: Sequence[str]) -> SourceSplit:
        batches = []
        for file in files:
            batch, where = unpickled(file)
            batches.append(_batch(batch, layout.labels, where))
        rows = np.concatenate([rows for rows, _ in batches])
        images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = np.concatenate([labels for _, labels in batches])
        return SourceSplit(labels=labels, image_shape=(32, 32, 3), blocks=in_blocks(images))

    meta, where = unpickled(layout.meta)
    yield released(
        RELEASES[name],
        where=str(path),
        class_names=_class_names(meta, layout.names, where),
        train=split(layout.train),
        test=split([layout.test]),
        md5s=md5s,
    )


def _batch(batch: dict[str, Any], labels: str, where: str) -> tuple[Images, Labels]:
    """Rows (n, 3072) and labels (n,) of one file."""
    rows = batch.get("data")
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
        found = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise UserError(f"{where}: 'data' is {found}; uint8 (n, 3072) is needed; fetch the official file")
    if labels not in batch:
        raise UserError(f"{where}: holds no {labels!r}; fetch the official file")
    return rows, as_labels(batch[labels], where, count=len(rows))


def _class_names(meta: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    names = meta.get(key)
    if not isinstance(names, list) or not names or not all(isinstance(name, str | bytes) for name in names):
        raise UserError(f"{where}: holds no names of classes under {key!r}; fetch the official file")
    return tuple(as_text(name) for name in names)
