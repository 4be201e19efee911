"""Checksums of prepared arrays: noted when they are written, compared by whatever is about to use them."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.base import DataSet, Split
from fastiseat.pipelines.protocol.progress import SILENT, Progress
from fastiseat.safe import open_file

_AT_ONCE = 2**24
_MOST_THREADS = 8


def checksum(array: npt.NDArray[Any]) -> str:
    """Of an array's bytes: SHA-256 over the CRC-32 of every 16 MiB, as 16 hexadecimal digits.

    Threads share the CRCs, so that it takes little longer than to read the array once. No single bit, and no burst of
    up to 32, changes unnoticed; whoever changes data on purpose can change what is noted of it too.
    """
    # As bytes and in C order: the checksum is of values, however an array lies in memory.
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    parts = [content[first : first + _AT_ONCE] for first in range(0, len(content), _AT_ONCE)]
    # Threads, as zlib lets others run while it computes.
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        sums = list(pool.map(zlib.crc32, parts))
    return hashlib.sha256(np.array(sums, dtype="<u4").tobytes()).hexdigest()[:16]


def file_checksum(file: Path) -> str:
    """Of all bytes of a file that is not empty."""
    with open_file(file) as content:
        return checksum(np.memmap(content, dtype=np.uint8, mode="r"))


def of_splits(**splits: Split) -> dict[str, str]:
    """Of images and labels, by the names of their files: ``train_images`` and so on."""
    arrays = {
        f"{name}_{part}": getattr(split, part) for name, split in splits.items() for part in ("images", "labels")
    }
    return {name: checksum(array) for name, array in arrays.items()}


def compare(noted: Mapping[str, str], found: Mapping[str, str], folder: Path, remedy: str) -> bool:
    """Whether all that was ``found`` is what was noted; False where of one of them nothing is.

    Raises:
        UserError: the file of that name in ``folder`` has changed since.
    """
    for name, value in found.items():
        if noted.get(name, value) != value:
            raise UserError(f"{folder / name}.npy: damaged: it is not what was prepared; {remedy}")
    return found.keys() <= noted.keys()


def verified(data: DataSet, *names: str, progress: Progress = SILENT) -> bool:
    """Whether the splits ``names``, ``train`` and ``test``, were looked at whole, and are what was prepared.

    False, and told, of arrays that were prepared before checksums were noted.

    Raises:
        UserError: they are something else.
    """
    if data.prepared is None:
        return True  # their fingerprint was computed of these very arrays
    remedy = f"run: fastiseat data prepare {data.name} --force"
    if not data.checksums:
        progress.say(f"{data.prepared}: not verified, as its checksums were not noted; {remedy}")
        return False
    return compare(
        data.checksums, of_splits(**{name: getattr(data, name) for name in names}), data.prepared, remedy
    )
