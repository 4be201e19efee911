"""Which code perturbs and updates the weights: the kernels in an arena, or NVIDIA Apex."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from fastiseat.config import SGD
from fastiseat.errors import UserError, unknown
from fastiseat.kernels import sgd, weight_perturb
from fastiseat.weights.apex import Apex
from fastiseat.weights.arena import Arena

Gradients = Mapping[str, Tensor]


class Update(Protocol):
    """What a step does to weights: first θ+ν, then the descent from there."""

    @property
    def momentum_buffers(self) -> dict[str, Tensor]:
        """By name, for weights that have been updated with momentum."""

    def refresh(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Take the parameters as they are now; called before each step."""

    def perturbed(self, gradients: Gradients, *, gamma: float, norm: str) -> dict[str, Tensor]:
        """θ+ν by name as new leaves (Eq. 11), all weights; those without a gradient as θ has them."""

    def descend(self, gradients: Gradients, clean_gradients: Gradients, optimizer: SGD) -> None:
        """θ ← (θ+ν) - lr·b - ν (Eq. 17 and 18), the gradients at θ+ν and at θ added.

        ν is that of :meth:`perturbed` since the last descent, or 0. A weight with neither gradient is left alone.
        """

    def load_momentum(self, buffers: Mapping[str, Tensor]) -> None:
        """Take over momentum by name; :class:`fastiseat.errors.UserError` for another network's."""


class ArenaUpdate:
    """The two kernels, each one sweep over all weights at once."""

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self.arena = Arena(weights)
        self._with_momentum: set[str] = set()
        self._ratio: Tensor | None = None

    @property
    def momentum_buffers(self) -> dict[str, Tensor]:
        """Views into the arena."""
        return {name: b for name, b in self.arena.momentum_buffers.items() if name in self._with_momentum}

    def refresh(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Parameters that were moved elsewhere come back into the arena."""
        self.arena.refresh(weights)
        self._ratio = None  # of a step that never came to its descent

    def perturbed(self, gradients: Gradients, *, gamma: float, norm: str) -> dict[str, Tensor]:
        """See :class:`Update`."""
        arena = self.arena
        grad, theta_nu = arena.flat("perturbation_grad"), arena.flat("theta_nu")
        arena.gather(gradients, "perturbation_grad")
        self._ratio = weight_perturb(
            arena.weights,
            grad,
            arena.segments,
            gamma=gamma,
            norm=norm,  # type: ignore[arg-type] # it says itself what it knows
            out=theta_nu,
        )
        return {name: view.detach().requires_grad_() for name, view in arena.views("theta_nu").items()}

    def descend(self, gradients: Gradients, clean_gradients: Gradients, optimizer: SGD) -> None:
        """See :class:`Update`."""
        arena = self.arena
        grad, clean_grad = arena.flat("grad"), arena.flat("clean_grad") if clean_gradients else None
        active = arena.gather(gradients, "grad")
        if clean_gradients:
            active = active | arena.gather(clean_gradients, "clean_grad")
        updated = gradients.keys() | clean_gradients.keys()
        sgd(
            arena.weights,
            arena.momentum if optimizer.momentum else None,
            grad,
            arena.segments,
            lr=optimizer.lr,
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
            second_grad=clean_grad,
            perturbation_grad=None if self._ratio is None else arena.flat("perturbation_grad"),
            ratio=self._ratio,
            active=None if len(updated) == len(arena.names) else active,
        )
        self._ratio = None
        if optimizer.momentum:
            self._with_momentum |= updated

    def load_momentum(self, buffers: Mapping[str, Tensor]) -> None:
        """See :class:`Update`."""
        self.arena.load_momentum(buffers)
        self._with_momentum = set(buffers)


class ApexUpdate:
    """NVIDIA Apex's kernels, tensor by tensor."""

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        """:class:`fastiseat.errors.UserError` where Apex is missing or cannot serve these weights."""
        self.momentum_buffers: dict[str, Tensor] = {}
        self._apex = Apex(weights)
        self.refresh(weights)

    def refresh(self, weights: Mapping[str, nn.Parameter]) -> None:
        """See :class:`Update`."""
        self._weights = self._theta_nu = dict[str, Tensor](weights)

    def perturbed(self, gradients: Gradients, *, gamma: float, norm: str) -> dict[str, Tensor]:
        """See :class:`Update`."""
        moved = {name: self._weights[name] for name in gradients}
        nu = self._apex.weight_perturbation(moved, gradients, gamma=gamma, norm=norm)
        with torch.no_grad():
            self._theta_nu = {name: w + nu[name] if name in nu else w.clone() for name, w in self._weights.items()}
        return {name: weight.requires_grad_() for name, weight in self._theta_nu.items()}

    def descend(self, gradients: Gradients, clean_gradients: Gradients, optimizer: SGD) -> None:
        """See :class:`Update`."""
        total = dict(gradients)
        for name, gradient in clean_gradients.items():
            total[name] = total[name] + gradient if name in total else gradient
        self._apex.sgd_step(
            self._weights,
            self._theta_nu,
            total,
            self.momentum_buffers,
            lr=optimizer.lr,
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
        )
        self._theta_nu = self._weights

    def load_momentum(self, buffers: Mapping[str, Tensor]) -> None:
        """See :class:`Update`."""
        for name, buffer in buffers.items():
            if name not in self._weights or buffer.shape != self._weights[name].shape:
                raise UserError(f"momentum of {name} does not fit the model: the state is another network's")
        self.momentum_buffers = {name: buffer.to(self._weights[name]) for name, buffer in buffers.items()}


IMPLEMENTATIONS: dict[str, Callable[[Mapping[str, nn.Parameter]], Update]] = {
    "own": ArenaUpdate,
    "apex": ApexUpdate,
}


def update(implementation: str, weights: Mapping[str, nn.Parameter]) -> Update:
    """``own`` or ``apex`` for these weights; :class:`fastiseat.errors.UserError` where it cannot be had."""
    if implementation not in IMPLEMENTATIONS:
        raise unknown("optimizer", implementation, IMPLEMENTATIONS)
    return IMPLEMENTATIONS[implementation](weights)
