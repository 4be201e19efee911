"""The checksum in the metadata of our own safetensors files, whose format has none."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fastiseat.errors import UserError
from fastiseat.safe import open_file

NAME = "crc32"
"""Of the checksum among the metadata."""
_METADATA = "__metadata__"
_AT_ONCE = 2**20
_SIZE = 8
_LONGEST_HEADER = 100 * 2**20  # as the library has it


def with_checksum(content: bytes) -> bytes:
    """A safetensors file's bytes with a CRC-32 of all that they tell, in a header of sorted metadata."""
    end = _SIZE + int.from_bytes(content[:_SIZE], "little")
    header = json.loads(content[_SIZE:end])
    told = {**header[_METADATA], NAME: f"{zlib.crc32(content[end:], _of_header(header)):08x}"}
    # The library writes metadata in random order; sorted, equal networks have equal files.
    header[_METADATA] = dict(sorted(told.items()))
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _SIZE)  # the format aligns the tensors
    return len(encoded).to_bytes(_SIZE, "little") + encoded + content[end:]


def check(path: Path, noted: str) -> None:
    """:class:`UserError` where a safetensors file does not have the checksum that its metadata notes."""
    with open_file(path) as file:
        header = json.loads(file.read(int.from_bytes(file.read(_SIZE), "little")))
        found = _of_rest(file, _of_header(header))
    if f"{found:08x}" != noted:
        raise UserError("damaged: it does not have the checksum in its metadata; fetch it or export it again")


@dataclass(frozen=True)
class Told:
    """What a safetensors file tells of itself, empty where it is none, and its SHA-256."""

    metadata: Mapping[str, str]
    sha256: str


def told(path: Path) -> Told:
    """Of one state of the file, whoever replaces it meanwhile; raises :class:`OSError` as reading it does."""
    with open_file(path) as file:
        digest = hashlib.sha256()
        while block := file.read(_AT_ONCE):
            digest.update(block)
        sha256, size = digest.hexdigest(), file.tell()
        file.seek(0)
        length = int.from_bytes(file.read(_SIZE), "little")
        return Told(_metadata(file.read(length)) if length < min(size, _LONGEST_HEADER) else {}, sha256)


def _metadata(header: bytes) -> dict[str, str]:
    try:
        return {str(name): str(value) for name, value in json.loads(header)[_METADATA].items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _of_header(header: dict[str, Any]) -> int:
    """Of what a header tells besides, however it is spelt."""
    told = {name: value for name, value in header.get(_METADATA, {}).items() if name != NAME}
    return zlib.crc32(json.dumps({**header, _METADATA: told}, sort_keys=True).encode())


def _of_rest(file: BinaryIO, checksum: int) -> int:
    while block := file.read(_AT_ONCE):
        checksum = zlib.crc32(block, checksum)
    return checksum
