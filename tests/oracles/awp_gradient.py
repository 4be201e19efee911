"""The approximate directions of ν, transcribed from what ``fastiseat.AWP`` says of them: slow, with copied models."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oracles.algorithm1 import Algorithm1, _norm

Gradients = dict[str, Tensor]


class Approximate(Algorithm1):
    """Algorithm 1 with ∇θ of Eq. 11 taken from elsewhere: ``gradient`` is the name of the place."""

    def __init__(self, model: nn.Module, *, gradient: str, **others: Any) -> None:
        super().__init__(model, **others)
        self.gradient = gradient
        self.of_last_attack_step: Gradients = {}
        self.of_last_loss: Gradients = {}

    def step(self, x: Tensor, y: Tensor, start: Tensor | None = None) -> dict[str, Any]:
        """As Algorithm 1's."""
        found = super().step(x, y, start)
        self.of_last_loss = found["grads_perturbed"]
        return found

    def _pgd(self, x: Tensor, y: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """K steps; those before the last, then the last one's gradients for the weights, then the last."""
        if self.gradient != "last-attack-step":
            return super()._pgd(x, y, delta)
        steps, self.steps = self.steps, self.steps - 1
        delta, x_adv = super()._pgd(x, y, delta)
        # The attack's loss is the sum over the batch.
        self.of_last_attack_step = self._at(copy.deepcopy(self.model), x_adv, y, reduction="sum")
        self.steps = 1
        delta, x_adv = super()._pgd(x, y, delta)
        self.steps = steps
        return delta, x_adv

    def _weight_perturbation(self, x_adv: Tensor, y: Tensor) -> Gradients:
        if self.gradient == "last-attack-step":
            g = self.of_last_attack_step
        elif self.gradient == "half-batch":
            half = -(-len(y) // 2)
            g = self._at(copy.deepcopy(self.model), x_adv[:half], y[:half], reduction="mean")
        else:
            g = self.of_last_loss
        theta = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad and p.ndim > 1}
        g = {name: g.get(name, torch.zeros_like(p)) for name, p in theta.items()}
        nu = {}
        for name in theta:
            of = [name] if self.awp_norm == "tensor" else list(theta)
            size = _norm([theta[n] for n in of]) / (_norm([g[n] for n in of]) + 1e-20)
            nu[name] = self.gamma * size * g[name]
        return nu

    @staticmethod
    def _at(proxy: nn.Module, x: Tensor, y: Tensor, *, reduction: str) -> Gradients:
        theta = {name: p for name, p in proxy.named_parameters() if p.requires_grad}
        loss = F.cross_entropy(proxy(x), y, reduction=reduction)
        gradients = torch.autograd.grad(loss, list(theta.values()), materialize_grads=True)
        return dict(zip(theta, gradients, strict=True))
