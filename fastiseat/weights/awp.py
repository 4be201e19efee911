"""Adversarial weight perturbation (Wu et al., 2020; Eq. 11 of the ISEAT paper)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# The released code's guard against a zero gradient.
TINY = 1e-20


def perturbable(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of ``weights`` that ν moves: more than one dimension, so no BatchNorm and no bias."""
    return {name: weight for name, weight in weights.items() if weight.dim() > 1}


@torch.no_grad()
def weight_perturbation(
    weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], *, gamma: float, norm: str
) -> dict[str, Tensor]:
    """ν = γ ‖θ‖ / ‖g‖ · g by name, for the tensors named in ``gradients``; nothing is read by the host.

    ``norm="tensor"`` takes both Frobenius norms of each tensor alone (the released code), ``"global"`` one
    norm over all of ``weights`` and one over all gradients (Eq. 11 as written).
    """
    weight_norms, gradient_norms = _norms(weights), _norms(gradients)
    if norm == "global":
        ratio = gamma * torch.stack(list(weight_norms.values())).norm()
        ratio = ratio / (torch.stack(list(gradient_norms.values())).norm() + TINY)
        return {name: ratio * gradient for name, gradient in gradients.items()}
    return {
        name: gamma * weight_norms[name] / (gradient_norms[name] + TINY) * gradient
        for name, gradient in gradients.items()
    }


def _norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.norm() for name, tensor in tensors.items()}
