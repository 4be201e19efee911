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


def read_torch(path: Path, entry: str | None = None) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The state dict in a torch file, on the CPU with its keys as they are, and what lies beside it.

    The file holds the state dict itself, with nothing beside it, or a dict with one (see :func:`nested`).

    Raises:
        UserError: damaged bytes, a pickle of more than tensors and plain containers, no state dict, or several.
        OSError: the file cannot be read.
    """
    content = _load(path)
    beside: dict[str, object] = {}
    if entry is not None and not (isinstance(content, Mapping) and isinstance(content.get(entry), Mapping)):
        raise UserError(f"entry={entry!r}: it holds no dict under that name{_names(content)}")
    while isinstance(content, Mapping) and (name := entry or nested(content)) is not None:
        beside |= {str(key): value for key, value in content.items() if key != name}
        content, entry = content[name], None
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


def nested(content: Mapping[object, object]) -> str | None:
    """The name under which a dict holds a network's weights; None where it seems to be the state dict itself.

    ``state_dict`` before all, then ``model_state_dict``, ``model``, ``net`` and ``network``, then any other name,
    such as ``ema``, of which there must be only one.

    Raises:
        UserError: several of the same rank.
    """
    if isinstance(content.get("state_dict"), Mapping):
        return "state_dict"
    names = [str(key) for key, value in content.items() if isinstance(key, str) and _is_network(value)]
    for rank in ({"model_state_dict"}, {"model", "net", "network"}, set(names)):
        found = [name for name in names if name in rank]
        if len(found) > 1:
            raise UserError(
                f"it holds weights under {', '.join(map(repr, found[:6]))}; say which: entry={found[0]!r}"
            )
        if found:
            return found[0]
    return None


def _is_network(value: object, *, depth: int = 3) -> bool:
    """Whether it is a state dict with a first convolution, or holds one not too deep in it."""
    if not isinstance(value, Mapping) or not depth:
        return False
    if any(isinstance(key, str) and key.endswith("conv1.weight") for key in value):
        return True
    return any(_is_network(inner, depth=depth - 1) for inner in value.values())


def _names(content: object) -> str:
    if not isinstance(content, Mapping):
        return ""
    names = [str(key) for key, value in content.items() if isinstance(value, Mapping)]
    return f"; it has {', '.join(names[:6])}" if names else "; leave it out"


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
