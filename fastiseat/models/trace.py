"""A module's forward as a graph of torch.fx, or the reason why no graph would do what its Python code does."""

from __future__ import annotations

import copy
import inspect
import pickle
import random
import sys
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode


class UntraceableError(Exception):
    """Says why in one line."""


def trace(model: nn.Module, inlined: Collection[nn.Module]) -> fx.Graph:
    """The graph of ``model(x)``; modules other than ``inlined`` are called in it as they are.

    Plain torch.fx follows one way through the code without a word. Here whatever the graph would lose is an
    error: numbers drawn, tensors made or attributes written while tracing, and contexts such as ``no_grad``.

    Raises:
        UntraceableError: the reason. The module is then as it was.
    """
    if "forward" in vars(model) or len(inspect.signature(type(model).forward).parameters) != 2:
        raise UntraceableError("its forward takes other arguments than images")
    state, numbers_moved = PythonState(model), random_numbers()
    try:
        with _NoTensors():
            graph = _Tracer(inlined).trace(model)
    except UntraceableError:
        raise
    except Exception as error:  # whatever a user's code raises on meeting a stand-in for a tensor
        raise UntraceableError(" ".join(str(error).split())[:200] or type(error).__name__) from None
    finally:
        changes = [not state.restore(), numbers_moved()]
    if any(changes):
        raise UntraceableError("its forward writes attributes or draws Python's random numbers")
    return graph


class PythonState:
    """The attributes of a module and all below it, one level deep: what code that runs once more may change."""

    def __init__(self, model: nn.Module) -> None:
        self.found = [(module, _attributes(module)) for module in model.modules()]

    def restore(self) -> bool:
        """Put all back; whether that changed nothing."""
        was_same = True
        for module, found in self.found:
            now = _attributes(module)
            if not _same(found, now):
                was_same = False
                vars(module).clear()
                vars(module).update(found)
        return was_same


def _attributes(module: nn.Module) -> dict[str, Any]:
    # A module's own dicts must stay the objects that they are; of lists and the like the contents count.
    return {
        name: copy.copy(value) if type(value) in (list, set, dict) and name not in STANDARD else value
        for name, value in vars(module).items()
    }


def _same(found: dict[str, Any], now: dict[str, Any]) -> bool:
    return found.keys() == now.keys() and all(identity(found[name]) == identity(now[name]) for name in found)


def identity(value: Any) -> object:
    """Hashable, and another one when an attribute has changed: the value of a number, else the object."""
    kind = type(value)
    if kind in (bool, int, float, str):
        return value
    if kind in (list, tuple, set):
        return tuple([item if type(item) in (int, float) else id(item) for item in value])
    if kind is dict:
        return tuple([(key, id(item)) for key, item in value.items()])
    return id(value)


STANDARD = frozenset(vars(nn.Module()))
"""The attributes of every module."""


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


class _NoTensors(TorchDispatchMode):
    """Only stand-ins may be computed with: a real result would be the same in every later call."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise UntraceableError(f"its forward calls {func} on tensors of its own")


def _contexts() -> tuple[bool, ...]:
    devices = ("cpu", "cuda")
    autocast = (torch.is_autocast_enabled(device) for device in devices)
    return (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *autocast)


class _Tracer(fx.Tracer):
    """Knows the parameters and buffers by name, whatever tensors stand in for them."""

    def __init__(self, inlined: Collection[nn.Module]) -> None:
        super().__init__()
        self._inlined = set(map(id, inlined))
        self._contexts = _contexts()
        self._names: dict[int, str] = {}

    def trace(self, root: nn.Module, concrete_args: Any = None) -> fx.Graph:  # type: ignore[override]
        named = [*root.named_parameters(), *root.named_buffers()]
        self._names = {id(tensor): name for name, tensor in named}
        return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return id(m) not in self._inlined

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        name = self._names.get(id(attr_val))
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor):
            raise UntraceableError("its forward uses a tensor that is neither parameter nor buffer")
        return super().create_arg(a)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _contexts() != self._contexts:
            raise UntraceableError("its forward switches gradients or autocast on or off")
        return super().create_node(*args, **kwargs)
