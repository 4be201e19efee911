"""One step of HAT and of Consistency at a given δ, from their formulas: plain loops over images and classes.

It shares no code with the methods it judges. A network is any module; its gradients come from autograd alone.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def probabilities(z: Tensor) -> list[Tensor]:
    """p_k of one image's logits (C,), from e^z over its sum."""
    powers = [(value - z.detach().max()).exp() for value in z]
    return [power / sum(powers) for power in powers]


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """Mean of -ln p_y over logits (m, C)."""
    losses = [-probabilities(row)[int(label)].log() for row, label in zip(z, y, strict=True)]
    return sum(losses) / len(losses)


def kl(p: list[Tensor], q: list[Tensor]) -> Tensor:
    """Σ_k p_k ln(p_k / q_k)."""
    return sum(a * (a / b).log() for a, b in zip(p, q, strict=True))


def hat(
    model: nn.Module,
    standard: nn.Module,
    x: Tensor,
    y: Tensor,
    delta: Tensor,
    *,
    beta: float,
    h: float,
    gamma: float,
) -> tuple[Tensor, dict[str, Tensor], nn.Module]:
    """HAT's loss, its gradient for each parameter, and a copy of the model with the statistics that it leaves."""
    model, standard = copy.deepcopy(model).train(), copy.deepcopy(standard).eval()
    x_adv = (x + delta).clamp(0, 1)
    z, z_adv, z_helper = model(x), model(x_adv), model(x + h * (x_adv - x))
    standards = [
        int(max(range(len(row)), key=lambda k: float(row[k]))) for row in standard(x_adv).detach()
    ]  # the first of ties
    divergence = sum(kl(probabilities(a), probabilities(b)) for a, b in zip(z, z_adv, strict=True)) / len(y)
    loss = cross_entropy(z, y) + beta * divergence + gamma * cross_entropy(z_helper, torch.tensor(standards))
    return loss.detach(), gradients(loss, model), model


def consistency(
    model: nn.Module, views: list[Tensor], y: Tensor, delta: Tensor, *, weight: float, temperature: float
) -> tuple[Tensor, dict[str, Tensor], nn.Module]:
    """Consistency's, likewise; ``delta`` (2m, ...) is that of the first view's images, then of the second's."""
    model = copy.deepcopy(model).train()
    z = model((torch.cat(views) + delta).clamp(0, 1))
    m = len(y)
    divergences = []
    for i in range(m):
        p, q = probabilities(z[i] / temperature), probabilities(z[m + i] / temperature)
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        divergences.append((kl(p, middle) + kl(q, middle)) / 2)
    loss = (cross_entropy(z[:m], y) + cross_entropy(z[m:], y)) / 2 + weight * sum(divergences) / m
    return loss.detach(), gradients(loss, model), model


def gradients(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Of every parameter by name."""
    names, weights = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, weights), strict=True))
