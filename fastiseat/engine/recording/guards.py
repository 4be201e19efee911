"""What a recording of a step takes for granted about the module, told in microseconds before each replay."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import chain, starmap
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from fastiseat.fusion.undo import STANDARD, identity

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# The dicts of every module: that they are the same objects is seen together with the attributes.
_DICTS = ("_parameters", "_buffers", "_modules", *_HOOKS)


class State:
    """One state of a module, to be compared with others."""

    __slots__ = ("_hash", "_kept", "_value")

    def __init__(self, value: Hashable, kept: object) -> None:
        self._value, self._hash = value, hash(value)
        # What ``value`` tells by its identity lives as long, or another could come to have it.
        self._kept = kept

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, State) and self._value == other._value)

    def __hash__(self) -> int:
        return self._hash


class ModuleGuards:
    """The module's tree, hooks, attributes, and where its tensors lie."""

    # What :meth:`_walk` found, to be looked at again without a walk.
    _all: list[nn.Module]
    _attributes: list[dict[str, Any]]
    _dicts: list[dict[str, Any]]
    _hooks: list[Any]
    _getters: list[Callable[[dict[str, Any]], Any]]
    _containers: list[Any]
    _tensors: list[Tensor]
    _objects: list[Any]
    _plain: Any

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.latest = self._walk()
        """What :meth:`state` returned last."""

    def state(self) -> State:
        """Equal to that of an earlier call where the module's code would do the same to the same memory."""
        if not self._is_as_seen():
            self.latest = self._walk()
        return self.latest

    def tensors(self) -> list[Tensor]:
        """Parameters, buffers, and tensors that are attributes of a module or lie in one that is a list or dict."""
        return list(self._tensors)

    def _walk(self) -> State:
        modules = list(self.model.modules())
        self._all, self._attributes = modules, [vars(module) for module in modules]
        self._dicts = [d for m in modules for d in (m._parameters, m._buffers, m._modules)]
        self._hooks = [attributes[name] for attributes in self._attributes for name in _HOOKS]
        names = [[name for name in attributes if name not in STANDARD] for attributes in self._attributes]
        # One itemgetter a module, and maps over them: the comparison runs in C, before each replay of a step that
        # itself needs no Python.
        self._getters = [operator.itemgetter(*_DICTS, *own) for own in names]
        own = [(n, a[n]) for a, mine in zip(self._attributes, names, strict=True) for n in mine]
        values = [value for _, value in own]
        self._containers = [value for value in values if type(value) in (list, set, dict)]
        tuples = [value for value in values if type(value) is tuple]
        members = list(chain(*map(dict.values, self._dicts), values, *map(_items, self._containers), *tuples))
        # Others have no address to be told by.
        strided = (t for t in members if isinstance(t, Tensor) and t.layout == torch.strided)
        self._tensors = list({id(tensor): tensor for tensor in strided}.values())
        self._objects, self._plain = list(self._now()), self._glance()
        attributes = tuple([(name, identity(value)) for name, value in own])
        tree = tuple([tuple(map(id, d.values())) for d in self._dicts]), tuple(map(type, modules))
        return State((attributes, tree, *map(tuple, self._plain)), (self._objects, members))

    def _is_as_seen(self) -> bool:
        try:
            # Identities first: they are cheapest, and most changes show there.
            return all(map(operator.is_, self._now(), self._objects)) and self._glance() == self._plain
        except KeyError:  # an attribute is gone
            return False

    def _now(self) -> Iterator[object]:
        """All that is told by its identity; as many as before, where the lengths of the dicts are."""
        attributes = starmap(operator.call, zip(self._getters, self._attributes, strict=True))
        return chain(map(type, self._all), *map(dict.values, self._dicts), *attributes)

    def _glance(self) -> list[list[Any]]:
        """All that is told by its value."""
        return [
            list(map(len, self._dicts)),
            list(map(len, self._attributes)),
            # `param.data = ...` and `module.to()` leave the object as it was and move its memory.
            list(map(Tensor.data_ptr, self._tensors)),
            # Freezing a weight changes which gradients the step takes.
            [tensor.requires_grad for tensor in self._tensors],
            [tuple(tensor._backward_hooks or ()) for tensor in self._tensors],
            list(chain.from_iterable(self._hooks)),  # each hook has a number of its own
            [identity(value) for value in self._containers],
            [bool(_has_any_global_hook())],
        ]


def _items(container: Any) -> Iterable[object]:
    return container.values() if type(container) is dict else container
