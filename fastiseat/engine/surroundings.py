"""What a recording of a step takes for granted about the module, told in microseconds before each replay."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from fastiseat.models.trace import STANDARD, identity

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Surroundings:
    """The module's tree, hooks, attributes, and where its tensors lie."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._seen: list[Any] = []
        self._state: Hashable = None
        self._walk()

    def state(self) -> Hashable:
        """Equal to that of an earlier call where the module's code would do the same to the same memory."""
        if self._glance() != self._seen:
            self._walk()
        return self._state

    def tensors(self) -> list[Tensor]:
        """Parameters, buffers, and tensors that are plain attributes of a module."""
        attributes = [value for module in self._modules for value in vars(module).values()]
        return [value for value in (*self._tensors, *attributes) if isinstance(value, Tensor)]

    def __deepcopy__(self, memo: dict[int, Any]) -> Surroundings:
        """Those of the copied module."""
        return Surroundings(copy.deepcopy(self.model, memo))

    def _walk(self) -> None:
        self._modules = list(self.model.modules())
        self._dicts = [d for m in self._modules for d in (vars(m), m._parameters, m._buffers, m._modules)]
        # Kept alive, or the identity of one that was replaced could come back as another's.
        self._values = [list(d.values()) for d in self._dicts]
        self._hooks = [vars(module)[name] for module in self._modules for name in _HOOKS]
        attributes = [
            (name, value) for m in self._modules for name, value in vars(m).items() if name not in STANDARD
        ]
        self._containers = [value for _, value in attributes if type(value) in (list, set, dict)]
        tensors = [t for m in self._modules for t in (*m._parameters.values(), *m._buffers.values())]
        self._tensors: list[Tensor] = [tensor for tensor in tensors if tensor is not None]
        self._seen = self._glance()
        plain = tuple([(name, identity(value)) for name, value in attributes])
        tree = tuple([id(child) for m in self._modules for child in m._modules.values()])
        self._state = plain, tree, tuple(map(id, self._tensors)), *map(tuple, self._seen[1:])

    def _glance(self) -> list[Any]:
        """What tells that anything has changed."""
        return [
            list(map(id, chain.from_iterable(map(dict.values, self._dicts)))),
            list(map(Tensor.data_ptr, self._tensors)),
            [tensor.requires_grad for tensor in self._tensors],
            list(map(len, self._hooks)),
            [identity(value) for value in self._containers],
            [bool(_has_any_global_hook())],
        ]
