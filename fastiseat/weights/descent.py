"""What an optimizer is given at each step: gradients, ν and θ, flat in the arena, and how to write in place."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from fastiseat.kernels import Segments
from fastiseat.kernels.core.flat import Number, blocks, of_blocks, scalar
from fastiseat.kernels.weight_perturb.reference import perturbed_weights
from fastiseat.weights.arena import Arena
from fastiseat.weights.state import State, Stateful

Gradients = Mapping[str, Tensor]


class Nu(NamedTuple):
    """ν = ratio · grad, weight by weight, as :func:`fastiseat.kernels.weight_perturb` leaves it."""

    grad: Tensor
    """The gradient that it was made of, (P,)."""
    ratio: Tensor
    """(S,), of the dtype of θ."""


class Averaging(NamedTuple):
    """The average that an optimizer keeps in its own sweep."""

    average: Stateful
    state: State


@dataclass(frozen=True, kw_only=True)
class Descent:
    """One update: θ ← (θ+ν) - step - ν (Eq. 17 and 18).

    P is the length of the arena's buffers, S the number of weights. Whatever is read here is on the device, and nothing
    waits for it. Padding between weights holds zeros, and a step computed of zeros must leave zeros there.
    """

    arena: Arena
    gradients: Gradients
    """At θ+ν by name, of the weights that have one."""
    clean_gradients: Gradients
    """At θ, to be added; empty where there is none."""
    into: str
    """The arena's buffer that receives those at θ+ν."""
    nu: Nu | None
    """None where ν is 0, or where the optimizer's own perturbation tells it by ``theta_nu`` alone."""
    theta_nu: Mapping[str, Tensor] | None
    """θ+ν by name as the passes had it, in half precision rounded; None where ν is 0."""
    skip: Tensor | None
    """bool (): where it is true nothing may change."""
    writes: Collection[str]
    """The names of the state that this update is to write; the others stay as they are."""
    averaging: Averaging | None
    """What the optimizer has to average too; it has told that it can."""

    @property
    def weights(self) -> Tensor:
        """θ, (P,), to be updated in place."""
        return self.arena.weights

    @property
    def segments(self) -> Segments:
        """Which weight an element is of."""
        return self.arena.segments

    @cached_property
    def _gathered(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        arena = self.arena
        active = arena.gather(self.gradients, self.into)
        clean = None
        if self.clean_gradients:
            active_too = arena.gather(self.clean_gradients, "clean_grad")
            clean = arena.flat("clean_grad")
        else:
            active_too = active
        # None for all, as in nearly every network, spares kernels a look-up for each block.
        all_move = len(self.updated) == len(arena.names)
        return arena.flat(self.into), clean, None if all_move else active | active_too

    @property
    def grad(self) -> Tensor:
        """The gradients at θ+ν, (P,), zeros where there is none; gathered when they are first asked for."""
        return self._gathered[0]

    @property
    def second_grad(self) -> Tensor | None:
        """Those at θ, (P,), that are added; None for none."""
        return self._gathered[1]

    @property
    def active(self) -> Tensor | None:
        """bool (S,): the weights that have a gradient, the only ones to be updated; None for all."""
        return self._gathered[2]

    @property
    def updated(self) -> frozenset[str]:
        """Their names."""
        return frozenset(self.gradients.keys() | self.clean_gradients.keys())

    def number(self, value: Number) -> Tensor:
        """A number of the settings as a tensor () like θ: in a recording it is one already, read at each replay."""
        return scalar(value, self.weights)

    def gradient(self) -> Tensor:
        """The whole gradient, (P,), a tensor of its own in the dtype of θ."""
        grad, second = self.grad.to(self.weights.dtype), self.second_grad
        # A clone: rules may change theirs in place, and `grad` is the arena's.
        return grad.clone() if second is None else grad + second.to(self.weights.dtype)

    def perturbed(self) -> Tensor:
        """θ+ν, (P,), in the dtype of θ: where weight decay is taken. θ itself where ν is 0."""
        if self.nu is None:
            return self.weights
        theta, grad, table = blocks(self.weights), blocks(self.nu.grad), self.segments.block_segment
        return perturbed_weights(theta, grad, self.nu.ratio, table, self.segments.perturbed).flatten()

    @torch.no_grad()
    def write(self, tensor: Tensor, new: Tensor) -> None:
        """``tensor`` ← ``new``, but where the step is skipped or, in a buffer (P,), the weight has no gradient."""
        is_flat = tensor.shape == self.weights.shape
        # A mask on the device, and no `if`: asking whether the step overflowed would wait for it.
        moves = None if self.skip is None else ~self.skip
        if is_flat and self.active is not None:
            active = of_blocks(self.active, self.segments.block_segment)
            moves = active if moves is None else active & moves
        if is_flat:
            tensor, new = blocks(tensor), blocks(new)
        # `where`, not a product with the mask: 0 · NaN is NaN, and an overflow is what is to be kept out.
        tensor.copy_(new if moves is None else new.where(moves, tensor))
