"""A checkpoint's file: one line that says what follows, with its checksum, then the bytes of ``torch.save``."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from fastiseat.models.files.torch_file import damage, may_nest_deeply
from fastiseat.safe import open_file
from fastiseat.safe.reading import NETWORK

FORMAT = 1
_KIND = re.compile(rb"fastiseat checkpoint, format (\d{1,9}), ")
_CLAIM = re.compile(rb"step (\d{1,18}), (\d{1,18}) bytes, sha256 ([0-9a-f]{64})\n")
_LONGEST_LINE = 256


class UnusableError(Exception):
    """Why nobody can go on from a checkpoint, in a few words that follow those of its kind."""

    kind = "can't be used"


class DamagedError(UnusableError):
    """What is wrong with its file."""

    kind = "is damaged"


class ForeignError(UnusableError):
    """Why its content is not that of the run."""

    kind = "is not of this run"


class _Header(NamedTuple):
    step: int
    num_bytes: int
    sha256: str


def encode(state: Mapping[str, Any], *, step: int) -> tuple[bytes, memoryview]:
    """The two parts of a file that holds ``state``: the line, and what it describes."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    payload = buffer.getbuffer()
    claim = f"fastiseat checkpoint, format {FORMAT}, step {step}, {len(payload)} bytes, sha256 ".encode()
    return claim + _checksum(step, payload).encode() + b"\n", payload


def read(path: Path) -> tuple[dict[str, Any], int]:
    """State and step of a file, on the CPU; :class:`DamagedError` where one byte of it differs from what was written.

    Nothing in the file is executed, and no more memory is taken than the file is long.
    """
    with open_file(path, most=NETWORK) as file:
        line = file.readline(_LONGEST_LINE)
        header = _parse(line)
        found = os.fstat(file.fileno()).st_size - len(line)
        if found != header.num_bytes:
            raise DamagedError(f"it holds {found:,} bytes of {header.num_bytes:,}")
        payload = file.read(header.num_bytes)
    if _checksum(header.step, payload) != header.sha256:
        raise DamagedError("its checksum does not match")
    return unpickle(io.BytesIO(payload)), header.step


def read_unchecked(path: Path) -> dict[str, Any]:
    """State of a file of an earlier version, which has no more than the checksums of ``torch.save``; else as
    :func:`read`.
    """
    with open_file(path, most=NETWORK) as file:
        if wrong := damage(file):
            raise DamagedError(wrong)
        return unpickle(file)


def unpickle(payload: BinaryIO) -> dict[str, Any]:
    """What ``torch.save`` wrote, on the CPU; :class:`DamagedError` where it is no dictionary of plain values."""
    if may_nest_deeply(payload):
        raise DamagedError("its content cannot be read (tuples within tuples)")
    payload.seek(0)
    try:
        return dict(torch.load(payload, map_location="cpu", weights_only=True))
    except MemoryError:
        raise
    except Exception as error:  # torch.load raises a dozen types for damaged files
        raise DamagedError(f"its content cannot be read ({type(error).__name__})") from error


def _parse(line: bytes) -> _Header:
    kind = _KIND.match(line)
    if kind is None:
        raise DamagedError("it does not begin as a checkpoint")
    if int(kind[1]) != FORMAT:
        raise DamagedError(f"it has format {int(kind[1])}, and this fastiseat reads format {FORMAT}")
    claim = _CLAIM.fullmatch(line, kind.end())
    if claim is None:
        raise DamagedError("its first line is incomplete")
    return _Header(int(claim[1]), int(claim[2]), claim[3].decode())


def _checksum(step: int, payload: bytes | memoryview) -> str:
    digest = hashlib.sha256(f"step {step}\n".encode())  # a changed step is as bad as a changed weight
    digest.update(payload)
    return digest.hexdigest()
