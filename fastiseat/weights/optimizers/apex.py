"""NVIDIA Apex's SGD and its norms, tensor by tensor, on parameters that lie in the arena."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fastiseat import config
from fastiseat.config import MOMENTUM
from fastiseat.weights.apex import Apex, require_apex
from fastiseat.weights.arena import WEIGHTS, Arena
from fastiseat.weights.descent import Descent, Gradients
from fastiseat.weights.optimizers import UpdateRule
from fastiseat.weights.perturbations import Theta, WeightPerturbation
from fastiseat.weights.state import State, buffer_of


class ApexSGD(UpdateRule):
    """Learning rate and momentum are numbers of the host; where a step may be skipped, it waits for the device."""

    unrecordable = "Apex reads learning rate and momentum on the host, which a recording would freeze"
    takes_half = False

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        """:class:`fastiseat.errors.UserError` where Apex is missing or cannot serve these weights."""
        self._apex = Apex(weights)

    @classmethod
    def check(cls, device: torch.device) -> None:
        """See :class:`~fastiseat.weights.optimizers.UpdateRule`."""
        require_apex(device)

    def perturbation(self, awp: config.AWP) -> WeightPerturbation:
        """By Apex's norms."""
        return ApexPerturbation(awp, self._apex)

    def init(self, weights: Tensor) -> State:
        """The momentum, zeros."""
        return {MOMENTUM: torch.zeros_like(weights)}

    def update(self, state: State, at: Descent, numbers: config.SGD) -> None:
        """Step at θ+ν and take ν off again."""
        if at.skip is not None and at.skip:
            return
        total = dict(at.gradients)
        for name, gradient in at.clean_gradients.items():
            total[name] = total[name] + gradient if name in total else gradient
        theta = at.arena.views(WEIGHTS)
        self._apex.sgd_step(
            theta,
            theta if at.theta_nu is None else at.theta_nu,
            total,
            dict(at.arena.views(buffer_of(MOMENTUM))),
            lr=numbers.lr,
            momentum=numbers.momentum,
            weight_decay=numbers.weight_decay,
            nesterov=numbers.nesterov,
        )


class ApexPerturbation(WeightPerturbation):
    """ν by Apex's norms; θ+ν is told by name alone."""

    def __init__(self, awp: config.AWP, apex: Apex) -> None:
        super().__init__(awp)
        self._apex = apex

    @torch.no_grad()
    def update(self, arena: Arena, gradients: Gradients, *, gamma: float | Tensor, norm: str, out: Theta) -> None:
        """See :class:`~fastiseat.weights.perturbations.Perturbation`."""
        assert not isinstance(gamma, Tensor), "no recording is made of it"
        theta, theta_nu = arena.views(WEIGHTS), arena.views(out.name)
        moved = {name: theta[name] for name in gradients}
        out.first.copy_(arena.weights)
        for name, nu in self._apex.weight_perturbation(moved, gradients, gamma=gamma, norm=norm).items():
            torch.add(theta[name], nu, out=theta_nu[name])
