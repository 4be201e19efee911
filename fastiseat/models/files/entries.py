"""Which state dict of a torch file is meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.models.files.numpy_values import as_numpy

_STEM = "conv1.weight"
_RANKS = ({"model_state_dict"}, {"model", "net", "network"})


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A state dict, and what else its file holds.

    Attributes:
        state: as it is, nothing beside it.
        beside: numbers, strings and whatever else lies beside it, at any level.
        name: where it was found; empty for the file's own level.
        others: names of further networks, not of copies.
        wanted: the ``entry`` asked for, where no dict has that name: it may be a prefix of keys.
    """

    state: dict[str, Tensor]
    beside: dict[str, object]
    name: str
    others: tuple[str, ...]
    wanted: str | None


def find(content: object, entry: str | None = None) -> Entry:
    """The state dict in what a torch file holds: itself, or in it.

    At each level the dict called ``entry`` is taken; else ``state_dict`` before all, then ``model_state_dict``,
    ``model``, ``net`` and ``network``, then any other that holds a network, such as ``ema``, of which there must be
    only one.

    Raises:
        UserError: no state dict, or several of the same rank.
    """
    beside: dict[str, object] = {}
    name, others = "", list[str]()
    while isinstance(content, Mapping):
        networks = [str(key) for key, value in content.items() if isinstance(key, str) and _is_network(value)]
        chosen = _chosen(content, networks, entry)
        left = [each for each in networks if each != chosen and not _is_copy(content[each], content, chosen)]
        others += left if entry is None or chosen != entry else []
        if chosen is None:
            content = {key: value for key, value in content.items() if key not in networks}
            break
        beside |= {str(key): as_numpy(value) for key, value in content.items() if key != chosen}
        content, name, entry = content[chosen], chosen, None if chosen == entry else entry
    return Entry(state=_plain(content), beside=beside, name=name, others=tuple(others), wanted=entry)


def no_such(entry: str, names: Iterable[str]) -> UserError:
    """For an ``entry`` that names nothing, where the file has ``names``."""
    known = list(names)
    hint = f"it has {', '.join(known[:6])}" if known else "leave it out"
    return UserError(f"entry={entry!r}: it holds no dict under that name; {hint}")


def _chosen(content: Mapping[object, object], networks: list[str], entry: str | None) -> str | None:
    """The key to go on with; None where ``content`` is the state dict."""
    if entry is not None and isinstance(content.get(entry), Mapping):
        return entry
    if isinstance(content.get("state_dict"), Mapping):
        return "state_dict"
    if any(_is_stem(key, value) for key, value in content.items()):
        return None
    for rank in (*_RANKS, set(networks)):
        found = [name for name in networks if name in rank]
        if len(found) > 1 and entry is not None:
            raise no_such(entry, found)
        if len(found) > 1:
            raise UserError(
                f"it holds weights under {', '.join(map(repr, found[:6]))}; say which: entry={found[0]!r}"
            )
        if found:
            return found[0]
    return None


def _is_stem(key: object, value: object) -> bool:
    return isinstance(key, str) and key.endswith(_STEM) and isinstance(value, Tensor)


def _is_network(value: object, *, depth: int = 3) -> bool:
    """Whether it is a state dict with a first convolution, or holds one not too deep in it."""
    if not isinstance(value, Mapping) or not depth:
        return False
    if any(isinstance(key, str) and key.endswith(_STEM) for key in value):
        return True
    return any(_is_network(inner, depth=depth - 1) for inner in value.values())


def _is_copy(other: object, content: Mapping[object, object], chosen: str | None) -> bool:
    """Whether it is the same state dict again, tensor by tensor."""
    mine = content if chosen is None else content[chosen]
    if not isinstance(other, Mapping) or not isinstance(mine, Mapping) or other.keys() != mine.keys():
        return False
    return all(_are_alike(mine[key], other[key]) for key in mine)


def _are_alike(a: object, b: object) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return False
    return _has_its_numbers(a) and _has_its_numbers(b) and bits(a) == bits(b)


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    """What two tensors have in common that are the same to the last bit."""
    return tensor.dtype, tensor.shape, tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _plain(content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        kind = type(as_numpy(content)).__name__
        raise UserError(f"holds a {kind}; it must hold a state dict, or a dict with one under 'state_dict'")
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise UserError(
                f"holds a {type(as_numpy(value)).__name__} under {key!r}; it must hold a state dict of tensors, or a "
                "dict with one under 'state_dict'"
            )
        if not _has_its_numbers(value):
            raise UserError(f"{key} is no plain tensor with numbers of its own; have its maker save a state dict")
    return dict(content)


def _has_its_numbers(tensor: Tensor) -> bool:
    """Whether the file holds each number: a tensor can claim any size that repeats one, or has none."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
