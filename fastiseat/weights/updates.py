"""Which code perturbs and updates the weights: the kernels in an arena, or NVIDIA Apex."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from fastiseat.config import SGD
from fastiseat.errors import unknown
from fastiseat.kernels import sgd, weight_perturb
from fastiseat.weights.apex import Apex, require_apex
from fastiseat.weights.arena import SHADOW, Arena
from fastiseat.weights.layout import require_fit

Gradients = Mapping[str, Tensor]


class Update(Protocol):
    """What a step does to weights: first θ+ν, then the descent from there."""

    recordable: ClassVar[bool]
    """Whether a recording of it, replayed, does the same with other numbers."""
    with_momentum: set[str]
    """The weights that have been updated with momentum; a recording that is replayed can't note them."""

    @property
    def momentum_buffers(self) -> dict[str, Tensor]:
        """By name, for those of ``with_momentum``."""

    def refresh(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Take the module's parameters as they are now; called where they may have been moved since the last step."""

    def begin(self, *, half: torch.dtype | None = None) -> None:
        """A step begins, at the parameters' present values.

        ``half`` is what its passes compute in where they can take weights of that dtype; who has none gives his own.
        """

    def theta(self) -> Mapping[str, Tensor]:
        """θ by name for passes: the parameters themselves, or leaves of its half-precision shadow, new at each call.

        Gradients of two passes at the same leaves would be added in half precision.
        """

    def perturbed(self, gradients: Gradients, *, gamma: float | Tensor, norm: str) -> dict[str, Tensor]:
        """θ+ν by name as new leaves (Eq. 11), all weights, of the dtypes of :meth:`theta`."""

    def descend(
        self,
        gradients: Gradients,
        clean_gradients: Gradients,
        optimizer: SGD,
        *,
        accelerates: bool,
        skip: Tensor | None = None,
    ) -> None:
        """θ ← (θ+ν) - lr·b - ν (Eq. 17 and 18), the gradients at θ+ν and at θ added.

        ν is that of :meth:`perturbed` since the last descent, or 0. A weight with neither gradient is left alone,
        and all are where ``skip``, bool (), is true. ``accelerates`` tells whether there is momentum, which on the
        device does not tell; without any, b stays as it is.
        """

    def last_gradients(self) -> Gradients:
        """The gradients at θ+ν of the last descent, zeros before the first; valid until the next."""

    def load_last_gradients(self, gradients: Gradients) -> None:
        """Go on from these; zeros for those that are missing."""

    def tensors(self) -> list[Tensor]:
        """All memory that a step reads or writes, for recordings of it."""

    def state(self) -> list[Tensor]:
        """Those of :meth:`tensors` that outlive a step and are no parameters."""

    def load_momentum(self, buffers: Mapping[str, Tensor]) -> None:
        """Take over momentum by name; :class:`fastiseat.errors.UserError` for another network's."""


class ArenaUpdate:
    """The two kernels, each one sweep over all weights at once."""

    recordable: ClassVar = True

    def __init__(self, weights: Mapping[str, nn.Parameter], *, full_precision: Collection[str] = ()) -> None:
        """``full_precision`` names the weights that have no half-precision shadow."""
        self.arena = Arena(weights, full_precision=full_precision)
        self.with_momentum: set[str] = set()
        self.refresh(weights)
        self.begin()

    @property
    def momentum_buffers(self) -> dict[str, Tensor]:
        """Views into the arena."""
        return {name: b for name, b in self.arena.momentum_buffers.items() if name in self.with_momentum}

    def refresh(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Parameters that were moved elsewhere come back into the arena."""
        self.arena.refresh(weights)
        self._weights = weights

    def begin(self, *, half: torch.dtype | None = None) -> None:
        """``half`` casts the shadow anew."""
        self._half = half
        self._ratio: Tensor | None = None  # that of a step which never came to its descent is void
        if half is not None:
            self.arena.shadow(half)

    def theta(self) -> Mapping[str, Tensor]:
        """See :class:`Update`."""
        return self._weights if self._half is None else _leaves(self.arena.views(SHADOW))

    def perturbed(self, gradients: Gradients, *, gamma: float | Tensor, norm: str) -> dict[str, Tensor]:
        """See :class:`Update`."""
        arena = self.arena
        grad, (name, out, rest) = arena.flat("perturbation_grad"), self._theta_nu()
        arena.gather(gradients, "perturbation_grad")
        self._ratio = weight_perturb(
            arena.weights,
            grad,
            arena.segments,
            gamma=gamma,
            norm=norm,  # type: ignore[arg-type] # it says itself what it knows
            out=out,
            out_full=rest,
        )
        return _leaves(arena.views(name))

    def _theta_nu(self) -> tuple[str, Tensor, Tensor | None]:
        """Name and pieces of the buffer for θ+ν, which is rounded to half precision as it is written."""
        if self._half is None:
            return "theta_nu", self.arena.flat("theta_nu"), None
        return "theta_nu_half", *self.arena.split("theta_nu_half", self._half)

    def descend(
        self,
        gradients: Gradients,
        clean_gradients: Gradients,
        optimizer: SGD,
        *,
        accelerates: bool,
        skip: Tensor | None = None,
    ) -> None:
        """See :class:`Update`."""
        arena = self.arena
        grad, clean_grad = arena.flat("grad"), arena.flat("clean_grad") if clean_gradients else None
        active = arena.gather(gradients, "grad")
        active_too = arena.gather(clean_gradients, "clean_grad") if clean_gradients else active
        updated = gradients.keys() | clean_gradients.keys()
        all_move = len(updated) == len(arena.names)
        sgd(
            arena.weights,
            arena.momentum if accelerates else None,
            grad,
            arena.segments,
            lr=optimizer.lr,
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
            second_grad=clean_grad,
            perturbation_grad=None if self._ratio is None else arena.flat("perturbation_grad"),
            ratio=self._ratio,
            active=None if all_move else active | active_too,
            skip=skip,
            nesterov=optimizer.nesterov,
        )
        self._ratio = None
        if accelerates:
            self.with_momentum |= updated

    def last_gradients(self) -> Gradients:
        """See :class:`Update`."""
        self.arena.flat("grad")
        return self.arena.views("grad")

    def load_last_gradients(self, gradients: Gradients) -> None:
        """See :class:`Update`."""
        require_fit(gradients, self._weights)
        self.arena.gather(gradients, "grad")

    def tensors(self) -> list[Tensor]:
        """See :class:`Update`."""
        return self.arena.tensors()

    def state(self) -> list[Tensor]:
        """See :class:`Update`."""
        return [self.arena.momentum, self.arena.flat("grad")]

    def load_momentum(self, buffers: Mapping[str, Tensor]) -> None:
        """See :class:`Update`."""
        self.arena.load_momentum(buffers)
        self.with_momentum = set(buffers)


def _leaves(views: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: view.detach().requires_grad_() for name, view in views.items()}


class ApexUpdate:
    """NVIDIA Apex's kernels, tensor by tensor. It has no shadow: half precision is autocast's."""

    recordable: ClassVar = False

    def __init__(self, weights: Mapping[str, nn.Parameter], *, full_precision: Collection[str] = ()) -> None:
        """:class:`fastiseat.errors.UserError` where Apex is missing or cannot serve these weights."""
        self.momentum_buffers: dict[str, Tensor] = {}
        self._apex = Apex(weights)
        self._last: dict[str, Tensor] = {}
        self.with_momentum: set[str] = set()
        self.refresh(weights)

    def refresh(self, weights: Mapping[str, nn.Parameter]) -> None:
        """See :class:`Update`."""
        self._weights = self._theta_nu = dict[str, Tensor](weights)

    def begin(self, *, half: torch.dtype | None = None) -> None:
        """See :class:`Update`."""
        self._theta_nu = self._weights

    def theta(self) -> Mapping[str, Tensor]:
        """See :class:`Update`."""
        return self._weights

    def perturbed(self, gradients: Gradients, *, gamma: float | Tensor, norm: str) -> dict[str, Tensor]:
        """See :class:`Update`."""
        assert not isinstance(gamma, Tensor), "no recording is made of it"
        moved = {name: self._weights[name] for name in gradients}
        nu = self._apex.weight_perturbation(moved, gradients, gamma=gamma, norm=norm)
        with torch.no_grad():
            self._theta_nu = {name: w + nu[name] if name in nu else w.clone() for name, w in self._weights.items()}
        return {name: weight.requires_grad_() for name, weight in self._theta_nu.items()}

    def descend(
        self,
        gradients: Gradients,
        clean_gradients: Gradients,
        optimizer: SGD,
        *,
        accelerates: bool,
        skip: Tensor | None = None,
    ) -> None:
        """See :class:`Update`; waits for the device where there is a ``skip``."""
        self._last = dict(gradients)
        if skip is not None and skip:
            return
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
            nesterov=optimizer.nesterov,
        )
        self._theta_nu = self._weights

    def last_gradients(self) -> Gradients:
        """See :class:`Update`."""
        return self._last or {name: torch.zeros_like(weight) for name, weight in self._weights.items()}

    def load_last_gradients(self, gradients: Gradients) -> None:
        """See :class:`Update`."""
        require_fit(gradients, self._weights)
        self._last = {name: gradient.to(self._weights[name]) for name, gradient in gradients.items()}

    def tensors(self) -> list[Tensor]:
        """See :class:`Update`."""
        return [*self._weights.values(), *self.state()]

    def state(self) -> list[Tensor]:
        """See :class:`Update`."""
        return list(self.momentum_buffers.values())

    def load_momentum(self, buffers: Mapping[str, Tensor]) -> None:
        """See :class:`Update`."""
        require_fit(buffers, self._weights)
        self.momentum_buffers = {name: buffer.to(self._weights[name]) for name, buffer in buffers.items()}


IMPLEMENTATIONS: dict[str, type[ArenaUpdate | ApexUpdate]] = {
    "own": ArenaUpdate,
    "apex": ApexUpdate,
}


def update(
    implementation: str, weights: Mapping[str, nn.Parameter], *, full_precision: Collection[str] = ()
) -> Update:
    """``own`` or ``apex`` for these weights; :class:`fastiseat.errors.UserError` where it cannot be had.

    ``full_precision`` names those that no pass takes in half precision.
    """
    return _named(implementation)(weights, full_precision=full_precision)


def check_implementation(implementation: str, device: torch.device) -> bool:
    """Whether its steps can be recorded; :class:`fastiseat.errors.UserError` where it can't be had on ``device``."""
    kind = _named(implementation)
    if kind is ApexUpdate:
        require_apex(device)
    return kind.recordable


def _named(implementation: str) -> type[ArenaUpdate | ApexUpdate]:
    if implementation not in IMPLEMENTATIONS:
        raise unknown("optimizer", implementation, IMPLEMENTATIONS)
    return IMPLEMENTATIONS[implementation]
