"""SVHN's cropped digits: ``train_32x32.mat`` and ``test_32x32.mat``, MATLAB files of version 5."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.io

from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.releases import RELEASES, md5_of
from fastiseat.pipelines.protocol.source import Source, SourceSplit, as_labels, in_blocks, released
from fastiseat.safe import read_file
from fastiseat.safe.reading import ARRAYS

_MOST_IMAGES = 10**6
_HEADER, _COMPRESSED, _COMPLEX = 4096, 15, 0x800
# Of numbers; scipy has nothing in the gaps between them, and looks there.
_TYPES = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13}
_NUMBERS = {"single", "double", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}


def read_source(kind: str, path: Path, image_size: int | None) -> AbstractContextManager[Source]:
    """:func:`read`, as all readers are called."""
    return read(path)


@contextmanager
def read(path: Path) -> Iterator[Source]:
    """The folder's two files: ``X`` 32×32×3×N, ``y`` 1 … 10, where 10 is the digit 0. ``extra`` is not used."""
    files = {split: path / f"{split}_32x32.mat" for split in ("train", "test")}
    for file in files.values():
        if not file.exists():
            raise UserError(
                f"{file}: no such file; SVHN needs both {' and '.join(f.name for f in files.values())}"
            )
    yield released(
        RELEASES["svhn"],
        where=str(path),
        class_names=tuple(map(str, range(10))),
        train=_split(files["train"]),
        test=_split(files["test"]),
        md5s={file.name: md5_of(file) for file in files.values()},
    )


def _split(path: Path) -> SourceSplit:
    arrays = _arrays(path)
    images, labels = arrays["X"], arrays["y"]
    for name, array in (("X", images), ("y", labels)):
        if not isinstance(array, np.ndarray):
            raise UserError(
                f"{path}: {name} is a {type(array).__name__}; an array is needed; fetch the official file"
            )
    if images.dtype != np.uint8:
        raise UserError(f"{path}: X is {images.dtype}; uint8 is needed; fetch the official file")
    labels = as_labels(labels.reshape(-1), str(path), count=images.shape[3])
    wrong = labels[(labels < 1) | (labels > 10)]
    if len(wrong):
        raise UserError(
            f"{path}: label {wrong[0]} is out of range: the release has 1 … 10, where 10 is the digit 0"
        )
    blocks = in_blocks(images.transpose(3, 0, 1, 2))
    return SourceSplit(labels=labels % 10, image_shape=(32, 32, 3), blocks=blocks)


def _arrays(path: Path) -> dict[str, Any]:
    """``X`` and ``y``, read once the sizes that the file declares are those of images and their labels."""
    try:
        content = read_file(path, most=ARRAYS)
        if content[125:126] != b"\2":  # version 7.3, which scipy refuses by name
            _require_known_types(content)
        found = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(io.BytesIO(content))}
        problem = _problem({name: shape for name, (shape, _) in found.items()})
        # Of anything but numbers a damaged header can make scipy crash.
        for name, kind in ((name, found[name][1]) for name in ("X", "y") if not problem):
            if kind not in _NUMBERS:
                problem = f"{name} is of class {kind}; whole numbers are needed"
        if not problem:
            return dict(scipy.io.loadmat(io.BytesIO(content), variable_names=["X", "y"]))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'truncated'}; fetch it again") from error
    except NotImplementedError as error:
        raise UserError(f"{path}: a MATLAB file of version 7.3; SVHN is released in version 5") from error
    except Exception as error:  # damaged bytes make the reader fail in too many ways to list
        raise UserError(f"{path}: damaged, truncated or no MATLAB file ({error}); fetch it again") from error
    raise UserError(f"{path}: {problem}; fetch the official file")


def _require_known_types(content: bytes) -> None:
    """``ValueError`` unless the parts of each array are of types that exist: with another number scipy crashes."""
    order: Literal["big", "little"] = "big" if content[126:128] == b"MI" else "little"
    place = 128
    while place + 8 <= len(content):
        kind, size = (int.from_bytes(content[at : at + 4], order) for at in (place, place + 4))
        array = content[place + 8 : place + 8 + _HEADER]
        if kind == _COMPRESSED:
            array = zlib.decompressobj().decompress(content[place + 8 : place + 8 + size], _HEADER)[8:]
        place, at = place + 8 + size, 0
        for _ in range(4):  # flags, shape, name and numbers
            word, length = (int.from_bytes(array[begin : begin + 4], order) for begin in (at, at + 4))
            if word & 0xFFFF not in _TYPES:
                raise ValueError(f"a part of type {word & 0xFFFF}")
            at += 8 if word >> 16 else 8 + -(-length // 8) * 8
        if array[8:12] and int.from_bytes(array[8:12], order) & _COMPLEX:
            raise ValueError("complex numbers")


def _problem(shapes: dict[str, tuple[int, ...]]) -> str:
    if missing := {"X", "y"} - shapes.keys():
        return f"truncated, or holds no {' and no '.join(sorted(missing))}"
    images, labels = shapes["X"], shapes["y"]
    if len(images) != 4 or images[:3] != (32, 32, 3) or images[3] > _MOST_IMAGES:
        return f"X is {images}; (32, 32, 3, n) is needed"
    return "" if int(np.prod(labels)) == images[3] else f"{images[3]} images, {labels} labels"
