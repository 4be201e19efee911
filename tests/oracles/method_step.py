"""One step of any method, transcribed: the attack, ν on a proxy, the loss, SGD at θ+ν. Apart from the engine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from oracles.losses import ce, kl

Net = Callable[[Tensor], Tensor]


class Nets(NamedTuple):
    """The network at θ and at θ+ν; both write the same running statistics."""

    theta: Net
    theta_nu: Net


# (networks, x, x', labels) to the loss; of ISEAT's some parts are at θ, of the others all at θ+ν.
Loss = Callable[[Nets, Tensor, Tensor, list[int]], Tensor]


class LiteralStep:
    """Trains ``self.model``, a copy of ``model``; ``climbs`` is what ν climbs and ``loss`` what the update descends."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        *,
        climbs: Loss | None = None,
        gamma: float = 0.0,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
    ) -> None:
        self.model = copy.deepcopy(model)
        self.loss, self.climbs, self.gamma = loss, climbs or loss, gamma
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.momentum_buffers: dict[str, Tensor] = {}

    def step(self, x: Tensor, y: Tensor, x_adv: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its gradient by name."""
        labels = y.tolist()
        self.model.train()
        theta = {name: p.detach().clone().requires_grad_() for name, p in self.model.named_parameters()}
        nu = self._nu(theta, x, x_adv, labels) if self.gamma else {}
        nu = {name: nu.get(name, torch.zeros_like(p)) for name, p in theta.items()}
        loss = self.loss(self._nets(theta, nu, trace=True), x, x_adv, labels)
        gradients = dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))
        self._descend(theta, nu, gradients)
        return loss.detach(), gradients

    def _nets(self, theta: Mapping[str, Tensor], nu: Mapping[str, Tensor], *, trace: bool) -> Nets:
        model = self.model if trace else copy.deepcopy(self.model)

        def at(weights: Mapping[str, Tensor]) -> Net:
            # ∂(θ+ν)/∂θ is the identity: gradients at both add up in θ.
            return lambda images: torch.func.functional_call(model, dict(weights), (images,))

        return Nets(at(theta), at({name: p + nu[name] for name, p in theta.items()} if nu else theta))

    def _nu(self, theta: Mapping[str, Tensor], x: Tensor, x_adv: Tensor, labels: list[int]) -> dict[str, Tensor]:
        """γ ‖θ_l‖ g_l / (‖g_l‖ + 1e-20) for each tensor of more than one dimension."""
        climbed = self.climbs(self._nets(theta, {}, trace=False), x, x_adv, labels)
        moved = {name: p for name, p in theta.items() if p.ndim > 1}
        gradients = torch.autograd.grad(climbed, list(moved.values()))
        return {
            name: self.gamma * p.detach().norm() / (g.norm() + 1e-20) * g
            for (name, p), g in zip(moved.items(), gradients, strict=True)
        }

    @torch.no_grad()
    def _descend(
        self, theta: Mapping[str, Tensor], nu: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
    ) -> None:
        for name, p in self.model.named_parameters():
            perturbed = theta[name] + nu[name]
            d = gradients[name] + self.weight_decay * perturbed
            if name in self.momentum_buffers:
                d = d + self.momentum * self.momentum_buffers[name]
            self.momentum_buffers[name] = d
            p.copy_(perturbed - self.lr * d - nu[name])


def climb(
    model: nn.Module,
    x: Tensor,
    start: Tensor,
    loss: Callable[[Tensor], Tensor],
    *,
    eps: float = 0.031,
    step_size: float = 0.007,
    steps: int = 10,
) -> Tensor:
    """x' as the authors of TRADES and MART write it: eval mode, and the start x + noise is not clipped."""
    model.eval()
    x_adv = x + start
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        (g,) = torch.autograd.grad(loss(model(x_adv)), x_adv)
        x_adv = x_adv.detach() + step_size * g.sign()
        x_adv = torch.min(torch.max(x_adv, x - eps), x + eps).clamp(0, 1)
    return x_adv


def trades_attack(model: nn.Module, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
    """Climbs Σ KL(p(x) ‖ p(x')), p(x) by the same eval-mode network."""
    model.eval()
    with torch.no_grad():
        clean = model(x)
    return climb(model, x, start, lambda z: sum(kl(clean[i], z[i]) for i in range(len(z))))


def mart_attack(model: nn.Module, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
    """Climbs the cross entropy."""
    return climb(model, x, start, lambda z: sum(ce(z[i], int(y[i])) for i in range(len(z))))
