"""Adversarial weight perturbation (Wu et al., 2020; Eq. 11 of the ISEAT paper) by the package's own kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar, cast

import torch
from torch import Tensor

from fastiseat import config
from fastiseat.kernels import weight_perturb
from fastiseat.kernels.weight_perturb import Norm
from fastiseat.weights.arena import Arena
from fastiseat.weights.descent import Gradients, Nu
from fastiseat.weights.perturbations.base import Perturbation, Theta
from fastiseat.weights.state import State

LAST_GRADIENTS = "last_gradients"
W = TypeVar("W", bound=Tensor)


def perturbable(weights: Mapping[str, W]) -> dict[str, W]:
    """Those of ``weights`` that ν moves: more than one dimension, so no BatchNorm and no bias."""
    return {name: weight for name, weight in weights.items() if weight.dim() > 1}


class WeightPerturbation(Perturbation):
    """One sweep over all weights. Along the gradients of the step before it keeps those, zeros before the first."""

    optional = (LAST_GRADIENTS,)  # they approximate a gradient that the next step makes anew

    def __init__(self, awp: config.AWP) -> None:
        self.follows = LAST_GRADIENTS if awp.gradient == "previous-step" else None

    def init(self, weights: Tensor) -> State:
        """The last gradients, where they are gone on from."""
        return {} if self.follows is None else {self.follows: torch.zeros_like(weights)}

    def update(
        self, arena: Arena, gradients: Gradients, *, gamma: float | Tensor, norm: str, out: Theta
    ) -> Nu | None:
        """θ + γ ‖θ‖ / ‖g‖ · g."""
        arena.gather(gradients, "perturbation_grad")
        grad = arena.flat("perturbation_grad")
        # γ‖θ‖/‖g‖ stays on the device, and ν is never stored: the update computes it from ratio and g again.
        ratio = weight_perturb(
            arena.weights,
            grad,
            arena.segments,
            gamma=gamma,
            norm=cast(Norm, norm),  # it says itself what it knows
            out=out.first,
            out_full=out.rest,
        )
        return Nu(grad, ratio)
