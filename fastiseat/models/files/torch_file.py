"""Torch files, read without ever executing what is in them."""

from __future__ import annotations

import pickle
import re
import shlex
import warnings
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

from fastiseat.errors import UserError
from fastiseat.models.files.numpy_values import numpy_values
from fastiseat.safe import open_file, unpickle
from fastiseat.safe.reading import NETWORK

# Before torch 1.6 a file was this many pickles, one after the other, and then the numbers.
_PICKLES = 5
_LARGEST_PICKLE = 64 * 2**20
_UNREADABLE = "its content cannot be read (BadZipFile)"
_DAMAGED = "not a weight file, or a truncated one; give a .safetensors or a torch file, or fetch it again"


def load(path: Path) -> object:
    """What a torch file holds, on the CPU: tensors, plain containers, numpy's values.

    Files of today's format, zip archives, are held against their own checksums; older ones have none.

    Raises:
        UserError: damaged bytes, or a pickle of more than that.
        OSError: the file cannot be read.
    """
    with open_file(path, most=NETWORK) as file:
        return _load(file, path)


def _load(file: BinaryIO, path: Path) -> object:
    is_pickle_or_zip = file.read(1) in (b"\x80", b"P")
    if may_nest_deeply(file):
        raise UserError(_DAMAGED)
    if wrong := damage(file):
        raise UserError(f"{wrong}; fetch it again" if wrong != _UNREADABLE else _DAMAGED)
    file.seek(0)
    try:
        with warnings.catch_warnings(), numpy_values():
            # An unusual pickle protocol makes torch warn before it refuses; the refusal says it all.
            warnings.simplefilter("ignore")
            content: object = torch.load(file, weights_only=True, map_location="cpu")
            return content
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(str(error), path) if is_pickle_or_zip else _DAMAGED) from None
    except Exception:  # damaged bytes make the reader fail in too many ways to list, OSError among them
        raise UserError(_DAMAGED) from None


def may_nest_deeply(file: BinaryIO) -> bool:
    """Whether one of a torch file's pickles might crash Python by tuples within tuples."""
    file.seek(0)
    if any(unpickle.may_nest_deeply(file) for _ in range(_PICKLES)):
        return True
    try:
        with zipfile.ZipFile(file) as archive:
            pickles = [info for info in archive.infolist() if info.filename.endswith(".pkl")]
            return any(
                info.file_size > _LARGEST_PICKLE or unpickle.may_nest_deeply(archive.read(info))
                for info in pickles
            )
    except Exception:  # no archive, or a damaged one, which torch tells
        return False


def damage(file: BinaryIO) -> str | None:
    """What contradicts the checksums of a torch file, which torch itself passes over; None where nothing does.

    The format before torch 1.6 has none.
    """
    file.seek(0)
    if file.read(2) != b"PK":
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            member = archive.testzip()
    except Exception:  # damaged bytes make the reader fail in too many ways to list
        return _UNREADABLE
    return f"damaged: {member!r} in it does not have its checksum" if member else None


def _refusal(reason: str, path: Path) -> str:
    culprit = re.search(r"GLOBAL (\S+)", reason)
    name = f" ({culprit[1]})" if culprit else ""
    return (
        f"a pickle of more than tensors and plain containers{name}, refused by weights_only=True: nothing in "
        "it was executed; have its maker save the state dict alone, or if you trust its maker have its code executed "
        f"once, outside of fastiseat: {_conversion(path)}"
    )


def _conversion(path: Path) -> str:
    """The command that executes what is in a file, and saves its tensors to another."""
    plain = path.with_name(f"{path.stem}-plain.pt")
    script = (
        f"import torch; d = torch.load({str(path)!r}, 'cpu', weights_only=False); "
        "d = d.state_dict() if hasattr(d, 'state_dict') else d; "
        f"torch.save({{k: v for k, v in d.items() if isinstance(v, (dict, torch.Tensor))}}, {str(plain)!r})"
    )
    return f"python -c {shlex.quote(script)}"
