"""Extra training data: the pseudo-labelled images of RST, a pickle, and generated images, an ``.npz`` file."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from fastiseat.errors import UserError
from fastiseat.pipelines.data.archives import open_zip, read_bytes
from fastiseat.pipelines.data.formats.saved_arrays import SavedArray, damage_told, find_array
from fastiseat.pipelines.protocol.base import Split
from fastiseat.pipelines.protocol.source import Images, Labels, as_labels
from fastiseat.safe import open_file
from fastiseat.safe.reading import ARRAYS
from fastiseat.safe.unpickle import read_pickle

_ZIP = b"PK"
# Protocols 2 and later begin with a mark of their own, a dict of protocol 0 or 1 with the opcode of one.
_PICKLE = (b"\x80", b"(", b"}")
_NAMES_SHOWN = 8
FORMATS = (
    "RST's pickle, a dict with uint8 'data' (n, H, W, C) and 'extrapolated_targets' (n,), or an .npz file with uint8 "
    "'image' (n, H, W, C) and 'label' (n,)"
)


def read_extra(path: Path, *, image_shape: tuple[int, int, int], num_classes: int) -> Split:
    """Images uint8 (n, H, W, C) and labels int64 (n,) of a pickle or an ``.npz`` file, told apart by content.

    Nothing in the file is executed. Images of an uncompressed ``.npz`` are mapped into memory, others lie there as a
    whole; either way they are read-only or this call's own.

    Args:
        path: of the file.
        image_shape: height, width and channels of the data set's images, which the extra ones need too.
        num_classes: labels lie in 0 … num_classes - 1.

    Raises:
        UserError: no such file, damaged, or not what :data:`FORMATS` says.
    """
    start = _beginning(path)
    if start.startswith(_ZIP):
        images, labels = _read_npz(path, image_shape)
    elif start.startswith(_PICKLE):
        images, labels = _read_pickle(path, image_shape)
    else:
        found = "neither a pickle nor an .npz file" if start else "an empty file"
        raise UserError(f"{path}: {found}; extra data is {FORMATS}")
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise UserError(
            f"{path}: label {wrong[0]} is out of range: the data set's labels lie in 0 … {num_classes - 1}; use extra "
            "data of the same classes"
        )
    return Split(images=images, labels=labels)


def _beginning(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            return file.read(2)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; extra data is {FORMATS}") from error


def _read_pickle(path: Path, image_shape: tuple[int, int, int]) -> tuple[Images, Labels]:
    content = read_pickle(read_bytes(path, most=ARRAYS), str(path))
    if not {"data", "extrapolated_targets"} <= content.keys():
        raise _missing(path, content, "'data' and 'extrapolated_targets'")
    images = content["data"]
    if not isinstance(images, np.ndarray):
        raise UserError(f"{path}: 'data' is a {type(images).__name__}; an array is needed: {FORMATS}")
    _check_images(path, "data", images.dtype, images.shape, image_shape)
    labels = as_labels(content["extrapolated_targets"], str(path), count=len(images))
    return np.ascontiguousarray(images).reshape(-1, *image_shape), labels


def _read_npz(path: Path, image_shape: tuple[int, int, int]) -> tuple[Images, Labels]:
    with ExitStack() as stack:
        with damage_told(str(path)):
            archive = stack.enter_context(open_zip(path))
        images, labels = (find_array(archive, names, path) for names in (("image", "images"), ("label", "labels")))
        if images is None or labels is None:
            raise _missing(path, (name.removesuffix(".npy") for name in archive.namelist()), "'image' and 'label'")
        _check_images(path, images.name, images.dtype, images.shape, image_shape)
        numbers = _read_labels(labels, count=images.shape[0])
        pixels = images.mapped()
        pixels = images.read() if pixels is None else pixels
    return pixels.reshape(-1, *image_shape), numbers


def _read_labels(labels: SavedArray, *, count: int) -> Labels:
    if len(labels.shape) != 1 and labels.shape[1:] != (1,):
        raise UserError(f"{labels.where}: {labels.dtype} {labels.shape}; whole numbers ({count},) are needed")
    return as_labels(labels.read().reshape(-1), labels.where, count=count)


def _missing(path: Path, found: Iterable[str], needed: str) -> UserError:
    names = sorted(found)
    shown = ", ".join(map(repr, names[:_NAMES_SHOWN])) + (" …" if len(names) > _NAMES_SHOWN else "")
    return UserError(f"{path}: holds {shown or 'nothing'}; {needed} are needed; extra data is {FORMATS}")


def _check_images(
    path: Path, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], image_shape: tuple[int, int, int]
) -> None:
    """Grey images may lack the last axis."""
    needed = ", ".join(map(str, image_shape))
    if dtype != np.uint8 or len(shape) not in (3, 4):
        raise UserError(f"{path}: {name!r} is {dtype} {shape}; uint8 (n, {needed}) is needed")
    found = (*shape[1:], 1)[:3]
    if found != image_shape:
        theirs, ours = ("×".join(map(str, one)) for one in (found, image_shape))
        raise UserError(f"{path}: images of {theirs}, the data set has {ours}; extra images need that size")
    if not shape[0]:
        raise UserError(f"{path}: holds no images; train without extra data, or add some")
