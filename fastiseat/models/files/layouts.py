"""State-dict keys of the Wide ResNets: the released layout, which this library uses, and the common one.

Pure renaming, whatever the values are. Released: ``layer{1-3}.block{i}.{bn1,conv1,bn2,conv2,shortcut.0}``
and ``fc0``. Common (RobustBench, TRADES): ``block{1-3}.layer.{i}.{bn1,conv1,bn2,conv2,convShortcut}`` and
``fc``, which Tack et al. call ``linear``. The stem ``conv1`` and the final ``bn1`` have one name. PreActResNets have
one layout, and pass unchanged. A layout is names alone: which forward pass they belong to is the network's variant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeVar, get_args

from fastiseat.errors import UserError, unknown

Layout = Literal["released", "common"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

T = TypeVar("T")

_RELEASED_BLOCK = re.compile(r"layer([123])\.block(\d+)\.(.+)")
_COMMON_BLOCK = re.compile(r"block([123])\.layer\.(\d+)\.(.+)")


def layout_of(keys: Iterable[str]) -> Layout | None:
    """The layout of a Wide ResNet's keys (without prefixes); None for every other network."""
    for key in keys:
        if _COMMON_BLOCK.fullmatch(key):
            return "common"
        if _RELEASED_BLOCK.fullmatch(key):
            return "released"
    return None


def strip_prefixes(state: Mapping[str, T]) -> dict[str, T]:
    """``state`` with a leading ``module.`` and then a leading ``model.`` taken off every key.

    Raises:
        UserError: two keys become one.
    """
    return _renamed(state, lambda key: key.removeprefix("module.").removeprefix("model."))


def to_released(state: Mapping[str, T]) -> dict[str, T]:
    """``state`` in the released layout, from either one, with or without prefixes, blocks from 0 or from 1.

    A common Wide ResNet's ``sub_block1`` is dropped: its forward pass never reads it.

    Raises:
        UserError: two keys become one.
    """
    bare = strip_prefixes(state)
    layout = layout_of(bare)
    if layout == "common":
        read = {key: value for key, value in bare.items() if not key.startswith("sub_block1.")}
        return _renamed(read, _released_key)
    return _from_zero(bare) if layout == "released" else bare


def to_common(state: Mapping[str, T]) -> dict[str, T]:
    """``state`` in the common layout, from either; see :func:`to_released`.

    Raises:
        UserError: two keys become one.
    """
    released = to_released(state)
    if layout_of(released) is None:
        return released
    return {_common_key(key): value for key, value in released.items()}


def to_layout(state: Mapping[str, T], layout: str) -> dict[str, T]:
    """``state`` in the layout of that name.

    Raises:
        UserError: ``layout`` is neither ``released`` nor ``common``, or two keys become one.
    """
    if layout not in LAYOUTS:
        raise unknown("key layout", layout, LAYOUTS)
    return to_common(state) if layout == "common" else to_released(state)


def _renamed(state: Mapping[str, T], rename: Callable[[str], str]) -> dict[str, T]:
    named = {rename(key): value for key, value in state.items()}
    if len(named) < len(state):
        raise UserError(
            "some keys differ only in a 'module.' or 'model.' prefix, or in the head's name; give a file that holds "
            "one network"
        )
    return named


def _released_key(key: str) -> str:
    if match := _COMMON_BLOCK.fullmatch(key):
        stage, index, rest = match.groups()
        return f"layer{stage}.block{index}.{rest.replace('convShortcut.', 'shortcut.0.')}"
    return re.sub(r"^(fc|linear)\.", "fc0.", key)


def _common_key(key: str) -> str:
    if match := _RELEASED_BLOCK.fullmatch(key):
        stage, index, rest = match.groups()
        return f"block{stage}.layer.{index}.{rest.replace('shortcut.0.', 'convShortcut.')}"
    return re.sub(r"^fc0\.", "fc.", key)


def _from_zero(state: dict[str, T]) -> dict[str, T]:
    """Released keys with the blocks of every stage counted from 0."""
    if any(key.startswith("layer1.block0.") for key in state):
        return state

    def renumbered(match: re.Match[str]) -> str:
        return f"layer{match[1]}.block{int(match[2]) - 1}.{match[3]}"

    return {_RELEASED_BLOCK.sub(renumbered, key): value for key, value in state.items()}
