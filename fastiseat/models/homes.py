"""What the module of a network holds, and where it is: the home of its entry in the table of networks."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import NamedTuple, Protocol, cast

from torch import Tensor, nn

from fastiseat.errors import UserError
from fastiseat.models.network import Network
from fastiseat.names.networks import NETWORKS, ModelSpec, Variant, family_of

State = Mapping[str, Tensor]
"""A network's tensors by their keys."""


class Recognised(NamedTuple):
    """Which network a foreign file's keys are those of.

    Attributes:
        arch: canonical name.
        variants: those that have these keys.
        stem: the key of the first weight, whose second dimension is the images' colour planes.
        head: the key of the last one, whose first dimension is the classes.
    """

    arch: str
    variants: tuple[Variant, ...]
    stem: str
    head: str


class Home(Protocol):
    """A module of networks: what ``fastiseat/models/NAME.py`` defines."""

    PARTS: frozenset[type[nn.Module]]
    """What its networks consist of, where all of it computes in half precision what autocast would; empty where some
    of it relies on autocast."""

    def build(self, spec: ModelSpec) -> Network:
        """A network in train mode with PyTorch's first weights; ``spec`` is one of the family's."""

    def plain(self, spec: ModelSpec) -> nn.Module:
        """The same network with the same keys as people write it, which benchmarks compare with."""

    def recognised(self, state: State) -> Recognised | None:
        """Which of its networks the keys of somebody else's file are those of; None where they are of none.

        Files of this library say what they are: only what others train needs to be recognised.
        """


def home_of(arch: str) -> Home:
    """The module of a canonical ``arch``."""
    return cast(Home, import_module(family_of(arch).home))


def homes() -> list[Home]:
    """All of them, in the table's order."""
    return [cast(Home, import_module(home)) for home in dict.fromkeys(each.home for each in NETWORKS.values())]


def size_of(state: State, key: str, *, axis: int) -> int:
    """The size of one of a file's weight tensors.

    Raises:
        UserError: it is not there, or has fewer dimensions.
    """
    if key not in state:
        raise UserError(f"it lacks the key {key}; give a file that holds a whole network")
    shape = state[key].shape
    if len(shape) <= axis:
        raise UserError(f"{key} has shape {tuple(shape)}; a weight tensor has two dimensions or more")
    return shape[axis]
