"""What optimizer, weight perturbation and average keep from step to step: tensors by name, there from construction.

Snapshots before a recording, ``state_dict``, loading, its checks and the memory figures follow from these names alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.weights.arena import Arena

State = dict[str, Tensor]
"""By name: buffers like θ, (P,), and tensors of any other shape, such as a count ()."""

ALWAYS = ("steps_taken", "loss_scale")
"""The entries of a step's ``state_dict`` beside the named ones."""


class Stateful(ABC):
    """A part of the update that may keep something."""

    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Between what values a tensor of the state must lie to be loaded, by name; NaN passes."""
    optional: ClassVar[Collection[str]] = ()
    """Names that a state may lack, or have for nothing: what they hold is no loss."""

    @abstractmethod
    def init(self, weights: Tensor) -> State:
        """The state before the first step at ``weights``, θ (P,): tensors of their own, on its device."""


def buffer_of(name: str) -> str:
    """Under what name the arena has a buffer of the state, apart from those of its own."""
    return f"state/{name}"


class NamedState:
    """The state of several parts; buffers like θ are the arena's, and known by weight."""

    def __init__(self, arena: Arena, parts: Iterable[Stateful]) -> None:
        """The first of ``parts`` is the optimizer; :class:`UserError` where two have a name in common."""
        self._arena, self._parts = arena, list(parts)
        self._of: dict[Stateful, State] = {}
        self._tensors: State = {}
        self._by_weight: dict[str, dict[str, Tensor]] = {}
        self._make()
        # By the optimizer's buffers alone, the first part's: the others' files hold all weights.
        self._touched: dict[str, set[str]] = {
            name: set() for name in self._of[self._parts[0]] if self.by_weight(name)
        }

    @torch.no_grad()
    def _make(self) -> None:
        weights = self._arena.weights
        self._of = {part: part.init(weights) for part in self._parts}
        self._tensors, self._by_weight = {}, {}
        for name, tensor in (pair for state in self._of.values() for pair in state.items()):
            if name in (*self._tensors, *ALWAYS):
                raise UserError(f"state {name}: two parts of the step keep something of this name; rename one")
            self._tensors[name] = tensor
            # By shape: what is like θ is laid out like it, and everything else is one tensor to files and loads.
            if tensor.shape == weights.shape:
                self._arena.hold(buffer_of(name), tensor)
                self._by_weight[name] = self._arena.alone(tensor)

    def of(self, part: Stateful) -> State:
        """That of one part; its tensors are written in place."""
        return self._of[part]

    def by_weight(self, name: str) -> dict[str, Tensor]:
        """A buffer's parts by parameter, each a tensor that a file holds alone; empty for what is not like θ."""
        return self._by_weight.get(name, {})

    def tensors(self) -> list[Tensor]:
        """All of it: what a step changes for the next one."""
        return list(self._tensors.values())

    def num_bytes(self) -> dict[str, int]:
        """The memory of each tensor by name."""
        return {name: tensor.numel() * tensor.element_size() for name, tensor in self._tensors.items()}

    def ranges(self) -> dict[str, tuple[float, float]]:
        """See :class:`Stateful`."""
        return {name: ends for part in self._parts for name, ends in part.ranges.items()}

    def optional(self) -> set[str]:
        """See :class:`Stateful`."""
        return {name for part in self._parts for name in part.optional}

    def template(self) -> dict[str, Any]:
        """All names, each with its tensor or with those of all weights."""
        return {name: self._by_weight.get(name, tensor) for name, tensor in self._tensors.items()}

    def touch(self, names: Collection[str], weights: Collection[str]) -> None:
        """The optimizer has updated ``weights`` and written the buffers ``names``.

        Of its buffers files hold the parts that have been written, as ``torch.optim`` does. Which these are is known
        where the step is built, not where it is replayed.
        """
        for name in self._touched.keys() & set(names):
            self._touched[name].update(weights)

    def by_name(self) -> dict[str, Any]:
        """For a state dict: tensors, and by weight those of buffers.

        They are the state's own memory: a copy on the device might not find room there. Only what a state may lack is
        copied, as its worth is that of one step.
        """
        return {
            name: self._shown(name) if name in self._by_weight else found for name, found in self._tensors.items()
        }

    def _shown(self, name: str) -> dict[str, Tensor]:
        parts, touched = self._by_weight[name], self._touched.get(name)
        if name in self.optional():
            return {weight: part.clone() for weight, part in parts.items()}
        return {weight: part for weight, part in parts.items() if touched is None or weight in touched}

    @torch.no_grad()
    def load(self, found: Mapping[str, Any]) -> None:
        """Take over what :meth:`by_name` returned, in place; what it lacks begins as before the first step.

        The padding of all buffers is made zeros again, which a step of infinite or NaN gradients may have spoilt.
        """
        self._arena.clear_padding()
        fresh = {name: tensor for part in self._parts for name, tensor in part.init(self._arena.weights).items()}
        for name, tensor in self._tensors.items():
            if name not in self._by_weight:
                tensor.copy_(found.get(name, fresh[name]))
                continue
            given = found.get(name, {})
            begun = self._arena.alone(fresh[name])
            for weight, part in self._by_weight[name].items():
                part.copy_(given.get(weight, begun[weight]))
            if name in self._touched:
                self._touched[name] = set(given)

    @torch.no_grad()
    def renew(self) -> None:
        """The arena was laid out anew: keep what is of the same name and shape."""
        # The old views hold the old buffers alive until their values are copied over.
        before, tensors = self._by_weight, self._tensors
        self._make()
        for name, tensor in tensors.items():
            if name not in before:
                self._tensors[name].copy_(tensor)
        for name, parts in before.items():
            for weight, part in self._by_weight[name].items():
                if weight in parts and parts[weight].shape == part.shape:
                    part.copy_(parts[weight])
