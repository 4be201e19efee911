"""Torch weight files, read without ever executing what is in them."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.pipelines import unpickle

# Before torch 1.6 a file was this many pickles, one after the other, and then the numbers.
_PICKLES = 5
_LARGEST_PICKLE = 64 * 2**20
_DAMAGED = "not a weight file, or a truncated one; give a .safetensors or a torch file, or fetch it again"


def read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The state dict in a torch file, on the CPU with its keys as they are, and what lies beside it.

    The file holds the state dict itself, with nothing beside it, or a dict with one under ``state_dict``.

    Raises:
        UserError: damaged bytes, a pickle of more than tensors and plain containers, no state dict.
        OSError: the file cannot be read.
    """
    content = _load(path)
    beside: dict[str, object] = {}
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        beside = {str(key): value for key, value in content.items() if key != "state_dict"}
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise UserError(
            f"holds a {type(content).__name__}; it must hold a state dict, or a dict with one under 'state_dict'"
        )
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise UserError(
                f"holds a {type(value).__name__} under {key!r}; it must hold a state dict of tensors, or a "
                "dict with one under 'state_dict'"
            )
        if not _is_plain(value):
            raise UserError(f"{key} is no plain tensor with numbers of its own; have its maker save a state dict")
    return dict(content), beside


def _is_plain(tensor: Tensor) -> bool:
    """Whether the file holds each number: a tensor can claim any size that repeats one, or has none."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


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


def _load(path: Path) -> object:
    with path.open("rb") as file:
        is_pickle_or_zip = file.read(1) in (b"\x80", b"P")
        if may_nest_deeply(file):
            raise UserError(_DAMAGED)
    try:
        with warnings.catch_warnings():
            # An unusual pickle protocol makes torch warn before it refuses; the refusal says it all.
            warnings.simplefilter("ignore")
            content: object = torch.load(path, weights_only=True, map_location="cpu")
            return content
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(str(error)) if is_pickle_or_zip else _DAMAGED) from None
    except Exception:  # damaged bytes make the reader fail in too many ways to list, OSError among them
        raise UserError(_DAMAGED) from None


def _refusal(reason: str) -> str:
    culprit = re.search(r"GLOBAL (\S+)", reason)
    name = f" ({culprit[1]})" if culprit else ""
    return (
        f"a pickle of more than tensors and plain containers{name}, refused by weights_only=True: nothing in "
        "it was executed; have its maker save the state dict alone"
    )
