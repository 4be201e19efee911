"""A traced graph with its BatchNorm → ReLU chains replaced by one call each."""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fastiseat.fusion.norm import norm_relu
from fastiseat.fusion.trace import UntraceableError

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_CALLS = ("call_function", "call_method")
_RELUS = {F.relu, torch.relu, torch.relu_, "relu", "relu_"}
_SUMS = {operator.add, torch.add, "add"}
_PURE = {"torch", "torch.nn.functional", "torch._C._nn", "_operator", "math", "builtins"}
"""Where functions come from that change none of their arguments, if their name doesn't say so."""


def has_hooks(module: nn.Module) -> bool:
    """Whether calling it runs other code than its forward."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def is_plain(module: nn.Module) -> bool:
    """Whether it is PyTorch's own BatchNorm with all that :func:`~fastiseat.fusion.norm.norm_relu` needs."""
    if type(module) not in _NORMS or has_hooks(module):
        return False
    assert isinstance(module, _NORMS)
    tensors = (module.weight, module.bias, module.running_mean, module.running_var, module.num_batches_tracked)
    return None not in tensors and isinstance(module.momentum, float | int) and module.track_running_stats


def rewrite(graph: fx.Graph, model: nn.Module) -> None:
    """Fuse in place what can be; a BatchNorm that can't stays what it is.

    Raises:
        UntraceableError: there is nothing to fuse.
    """
    fusible = _Fusible(graph, model)
    chains = [(node, relu) for node in graph.nodes if (relu := fusible.relu_after(node))]
    if not chains:
        raise UntraceableError("no plain BatchNorm in it is called once and read by one ReLU alone")
    for norm, relu in chains:
        addition = norm.args[0]
        if fusible.joins(addition, norm):
            _replace_with_sum(graph, addition, norm, relu)
        else:
            with graph.inserting_before(norm):
                module = graph.get_attr(norm.target)
                relu.replace_all_uses_with(graph.call_function(_relu_of_norm, (module, addition)))
            graph.erase_node(relu)
            graph.erase_node(norm)


def _replace_with_sum(graph: fx.Graph, addition: fx.Node, norm: fx.Node, relu: fx.Node) -> None:
    """Where the sum was taken, since others may read it before the BatchNorm does."""
    with graph.inserting_before(addition):
        module = graph.get_attr(norm.target)  # type: ignore[arg-type]
        both = graph.call_function(_sum_and_relu, (module, *addition.args))
        total, active = (graph.call_function(operator.getitem, (both, index)) for index in (0, 1))
    relu.replace_all_uses_with(active)
    graph.erase_node(relu)
    graph.erase_node(norm)
    addition.replace_all_uses_with(total)
    graph.erase_node(addition)
    if not total.users:
        graph.erase_node(total)


class _Fusible:
    """What may be fused in one graph."""

    def __init__(self, graph: fx.Graph, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.order = {node: place for place, node in enumerate(graph.nodes)}
        # A sum that is taken later would read what was written to its addends meanwhile.
        self.mutations = [place for node, place in self.order.items() if self._may_mutate(node)]
        called = [self.modules[str(node.target)] for node in graph.nodes if node.op == "call_module"]
        self.turns = Counter(id(below) for module in called for below in module.modules())
        # Statistics that another module or the code itself reads must be written at once.
        self.owners = Counter(id(m.running_mean) for m in self.modules.values() if isinstance(m, _NORMS))
        self.read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}

    def relu_after(self, norm: fx.Node) -> fx.Node | None:
        """The only reader of a BatchNorm, where both may become one."""
        if norm.op != "call_module" or len(norm.args) != 1 or norm.kwargs or len(norm.users) != 1:
            return None
        # Called twice, its second turn reads statistics that the first has written: none may wait for the pass's
        # end.
        module, name = self.modules[str(norm.target)], str(norm.target)
        if not is_plain(module) or self.turns[id(module)] != 1 or self.owners[id(module.running_mean)] != 1:
            return None
        if any(f"{name}.{buffer}" in self.read for buffer, _ in module.named_buffers()):
            return None
        (reader,) = norm.users
        return reader if self._is_relu(reader) and reader.args[:1] == (norm,) else None

    def joins(self, addition: Any, norm: fx.Node) -> bool:
        """Whether ``norm`` reads a plain sum that may be taken in its stead."""
        if not isinstance(addition, fx.Node) or addition.op not in _CALLS or addition.target not in _SUMS:
            return False
        if addition.kwargs or len(addition.args) != 2 or not all(isinstance(a, fx.Node) for a in addition.args):
            return False
        first, last = self.order[addition], self.order[norm]
        return not any(first < place < last for place in self.mutations)

    def _is_relu(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            return type(module) is nn.ReLU and not has_hooks(module)
        return node.op in _CALLS and node.target in _RELUS and node.kwargs.keys() <= {"inplace"}

    def _may_mutate(self, node: fx.Node) -> bool:
        if node.op == "call_method":
            return str(node.target).endswith("_")
        if node.op == "call_module":
            parts = list(self.modules[str(node.target)].modules())
            return any(getattr(part, "inplace", False) or not _is_torchs(part) for part in parts)
        if node.op != "call_function":
            return False
        return _function_may_mutate(node)


def _function_may_mutate(node: fx.Node) -> bool:
    name, origin = getattr(node.target, "__name__", "_"), getattr(node.target, "__module__", None)
    is_pure = origin in _PURE or getattr(torch, name, None) is node.target
    in_place = name.endswith("_") or (origin == "_operator" and (name[0] == "i" or name.endswith("item")))
    flags = [*node.args, *node.kwargs.values()]
    return not is_pure or in_place or "out" in node.kwargs or any(flag is True for flag in flags)


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def _relu_of_norm(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return norm_relu(bn, x)[1]


def _sum_and_relu(bn: nn.BatchNorm2d, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    return norm_relu(bn, a, b) if _are_alike(a, b) else norm_relu(bn, a + b)


def _are_alike(a: Any, b: Any) -> bool:
    """Whether their sum broadcasts and converts nothing."""
    if type(a) is not type(b) or not isinstance(a, Tensor):
        return False
    return (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
