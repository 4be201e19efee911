"""A module's forward as a graph of torch.fx, or the reason why no graph would do what its Python code does."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastiseat.fusion.turns import taking_turns
from fastiseat.fusion.undo import PythonState, TensorState, random_numbers, switches, tensors_of


class UntraceableError(Exception):
    """Says why in one line."""


@taking_turns()  # torch.fx replaces methods of torch's and Python's own for as long as it traces
def trace(model: nn.Module, inlined: Collection[nn.Module]) -> fx.Graph:
    """The graph of ``model(x)``; modules other than ``inlined`` are called in it as they are.

    Plain torch.fx follows one way through the code without a word. Here whatever the graph would lose is an
    error: numbers drawn, tensors made or attributes written while tracing, and contexts such as ``no_grad`` and
    activation checkpointing. The module is left as it was, whatever happens.

    Raises:
        UntraceableError: the reason.
    """
    if "forward" in vars(model) or len(inspect.signature(type(model).forward).parameters) != 2:
        raise UntraceableError("its forward takes other arguments than images")
    state, numbers_moved, put_back = PythonState(model), random_numbers(), switches()
    tensors = TensorState(tensors_of(model), copied=False)  # with values nothing is computed
    try:
        with _NoTensors():
            graph = _Tracer(inlined).trace(model)
    except UntraceableError:
        raise
    except Exception as error:  # whatever a user's code raises on meeting a stand-in for a tensor
        raise UntraceableError(" ".join(str(error).split())[:200] or type(error).__name__) from None
    finally:
        put_back()
        # Put back in any case: a forward that failed halfway has left traces too.
        written, have_moved, has_drawn = state.restore(), tensors.restore(), numbers_moved()
    if written:
        raise UntraceableError(f"its forward writes attributes: {', '.join(dict.fromkeys(written))}")
    if have_moved:
        raise UntraceableError("its forward gives tensors other memory, or switches their requires_grad")
    if has_drawn:
        raise UntraceableError("its forward draws Python's random numbers")
    return graph


class _NoTensors(TorchDispatchMode):
    """Only stand-ins may be computed with: a real result would be the same in every later call."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise UntraceableError(f"its forward calls {func} on tensors of its own")


def _contexts() -> tuple[object, ...]:
    devices = ("cpu", "cuda")
    autocast = (torch.is_autocast_enabled(device) for device in devices)
    return (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), saved_tensors_hooks(), *autocast)


def saved_tensors_hooks() -> object:
    """Those that what autograd keeps goes through at present: torch's own checkpointing is some; None without."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


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
            raise UntraceableError("its forward switches gradients or autocast or checkpoints activations")
        return super().create_node(*args, **kwargs)
