"""What code of a module may leave behind when it runs once more, and the way back to what was there before."""

from __future__ import annotations

import copy
import pickle
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

STANDARD = frozenset(vars(nn.Module()))
"""The attributes of every module."""

_MAPS, _BAGS = (dict, OrderedDict), (list, set, deque)


@contextmanager
def undone(model: nn.Module, tensors: Iterable[Tensor]) -> Iterator[None]:
    """What the block does to the module is undone at its end, whatever ends it.

    Of it and all below it: attributes, train/eval flags, hooks, which tensors and modules are its own, and of
    ``tensors`` the values, the memory and ``requires_grad``. Besides Python's and NumPy's random numbers and torch's
    switches for gradients and autocast; torch's own random numbers are the caller's to fork.
    """
    back = [PythonState(model).restore, TensorState(tensors).restore, random_numbers(), switches()]
    try:
        yield
    finally:
        for put_back in back:
            put_back()


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Parameters, buffers, and tensors that are attributes of a module or lie in one that is a list or dict."""
    attributes = [value for module in model.modules() for value in vars(module).values()]
    containers = [value for value in attributes if type(value) in (*_MAPS, *_BAGS, tuple)]
    inner = [item for held in containers for item in (held.values() if type(held) in _MAPS else held)]
    found = {id(value): value for value in (*inner, *attributes) if isinstance(value, Tensor)}
    lazy = nn.parameter.UninitializedParameter | nn.parameter.UninitializedBuffer
    return [t for t in found.values() if t.layout == torch.strided and not isinstance(t, lazy)]


class PythonState:
    """The attributes of a module and all below it, and what is in those that are lists, sets, dicts or deques.

    A module's own dicts are among them: its parameters, buffers, submodules and hooks.
    """

    def __init__(self, model: nn.Module) -> None:
        attributes = [vars(module) for module in model.modules()]
        self._found = [(mine, dict(mine)) for mine in attributes]
        containers = [v for mine in attributes for v in mine.values() if type(v) in (*_MAPS, *_BAGS)]
        self._contents = [(container, copy.copy(container)) for container in containers]

    def restore(self) -> list[str]:
        """Put all back; the names of what had changed."""
        changed = [name for now, found in self._found for name in _changes(now, found)]
        for container, found in self._contents:
            if type(container) in _MAPS:
                changed += _changes(container, found)
            elif identity(container) != identity(found):
                container.clear()
                (container.update if type(container) is set else container.extend)(found)
                changed.append(next(n for _, mine in self._found for n, v in mine.items() if v is container))
        return changed


def _changes(now: dict[Any, Any], found: dict[Any, Any]) -> list[str]:
    """Put the dict back as found; the keys that differed."""
    keys = [k for k in {**found, **now} if k not in now or k not in found or _differ(now[k], found[k])]
    if keys:
        refill(now, found)
    return [str(key) for key in keys]


def refill(now: dict[Any, Any], found: Mapping[Any, Any]) -> None:
    """Give a dict the contents of another, in their order, at no moment without those that both have."""
    now.update(found)
    if list(now) == list(found):
        return
    for key in now.keys() - found.keys():
        del now[key]
    for key, value in found.items():
        del now[key]
        now[key] = value


def _differ(now: Any, found: Any) -> bool:
    # Contents are compared by themselves.
    return now is not found and (type(found) in (*_MAPS, *_BAGS) or identity(now) != identity(found))


def identity(value: Any) -> object:
    """Hashable, and another one when an attribute has changed: the value of a number, else the object."""
    kind = type(value)
    if kind in (bool, int, float, str):
        return value
    if kind in (list, tuple, set, deque):
        return tuple([item if type(item) in (int, float) else id(item) for item in value])
    if kind is dict:
        return tuple([(key, id(item)) for key, item in value.items()])
    return id(value)


class TensorState:
    """Memory and ``requires_grad`` of tensors, and their values where ``copied``."""

    def __init__(self, tensors: Iterable[Tensor], *, copied: bool = True) -> None:
        self._found = [(t, t.requires_grad, t.detach(), t.detach().clone() if copied else None) for t in tensors]

    @torch.no_grad()
    def restore(self) -> bool:
        """Put them back, unseen by graphs that keep one of them; whether memory or flags had changed."""
        changed = False
        for tensor, requires_grad, memory, value in self._found:
            if tensor.data_ptr() != memory.data_ptr() or tensor.shape != memory.shape:
                tensor.data, changed = memory, True
            if value is not None:
                # Past autograd: a graph that keeps the tensor would else be told that it was overwritten.
                tensor.data.copy_(value)
            if tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
                changed = True
        return changed


def random_numbers() -> Callable[[], bool]:
    """Puts Python's and NumPy's random state back to now when called; whether it had moved."""
    python, numpy = random.getstate(), sys.modules.get("numpy")
    arrays = numpy.random.get_state() if numpy else None

    def put_back() -> bool:
        moved = random.getstate() != python
        random.setstate(python)
        if numpy and pickle.dumps(numpy.random.get_state()) != pickle.dumps(arrays):
            moved = True
            numpy.random.set_state(arrays)
        return moved

    return put_back


# What a forward may switch for all code after it.
_SWITCHES: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    *[(partial(torch.is_autocast_enabled, d), partial(torch.set_autocast_enabled, d)) for d in ("cpu", "cuda")],
]


def switches() -> Callable[[], None]:
    """Puts torch's switches for gradients, autocast and the default dtype back to now when called."""
    found = [read() for read, _ in _SWITCHES]

    def put_back() -> None:
        for (read, write), value in zip(_SWITCHES, found, strict=True):
            if read() != value:
                write(value)

    return put_back
