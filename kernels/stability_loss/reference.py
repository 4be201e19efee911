"""The definition of ``stability_loss``: any floating dtype and device, differentiable."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastiseat.errors import unknown
from fastiseat.kernels.stability_loss.arguments import Arguments

Results = tuple[Tensor, ...]
"""What the op returns, nine: total, adversarial, stability; losses, clean_losses, weights; and the gradients of
``adversarial`` for the logits, of ``stability`` for the logits, of ``stability`` for the clean logits."""


def stability_loss(call: Arguments) -> Results:
    """``fastiseat.kernels.stability_loss`` in plain PyTorch."""
    adversarial, clean, labels, lam = as_full(call.logits), as_full(call.clean_logits), call.labels, call.lam
    losses = F.cross_entropy(adversarial, labels, reduction="none")
    clean_losses = F.cross_entropy(clean, labels, reduction="none")
    weights = _weights((losses - clean_losses).detach(), call.weighting, call.top)
    distances, gap_gradients = _distance(call.distance)
    factor = lam.detach().to(weights).reshape(()) if isinstance(lam, Tensor) else lam
    stability = factor * (weights * distances(adversarial, clean)).mean()
    mean_loss = losses.mean()
    results = (mean_loss + stability, mean_loss, stability, losses.detach(), clean_losses.detach(), weights)
    if results[0].requires_grad:  # the graph of these very lines has the gradients
        return (*results, *(weights.new_empty(0) for _ in range(3)))
    scale = (factor * weights / len(labels))[:, None]
    return (
        *results,
        (F.softmax(adversarial, dim=1) - _one_hot(labels, adversarial)) / len(labels),
        *(scale * gradient for gradient in gap_gradients(adversarial, clean)),
    )


def as_full(logits: Tensor) -> Tensor:
    """At least float32, which losses and ranks need."""
    return logits.float() if logits.dtype.itemsize < torch.float32.itemsize else logits


def num_top(num_samples: int, top: float) -> int:
    """⌈top·m⌉, where 0.1 · 30 is 3 although its float is above."""
    return max(1, math.ceil(round(top * num_samples, 9)))


def rank_weights(vulnerability: Tensor) -> Tensor:
    """w_i = 1 - r_i / m (Eq. 14), r_i = 0 for the highest of ``vulnerability`` (m,), ties in order of index.

    A permutation of 1, 1 - 1/m, …, 1/m in the dtype of ``vulnerability``.
    """
    return 1 - _ranks(vulnerability) / len(vulnerability)


def _weights(vulnerability: Tensor, weighting: str, top: float) -> Tensor:
    match weighting:
        case "linear":
            return rank_weights(vulnerability)
        case "uniform":
            return torch.ones_like(vulnerability)
        case "top":
            highest = _ranks(vulnerability) < num_top(len(vulnerability), top)
            return highest.to(vulnerability.dtype)
        case other:
            raise unknown("weighting", other, ("linear", "uniform", "top"))


def _distance(name: str) -> tuple[Callable[..., Tensor], Callable[..., tuple[Tensor, Tensor]]]:
    """d of each sample, and its gradients for both logits."""
    match name:
        case "l2":
            return _squared_gaps, _l2_gradients
        case "kl":
            return _divergences, _kl_gradients
        case other:
            raise unknown("distance", other, ("l2", "kl"))


def _ranks(vulnerability: Tensor) -> Tensor:
    order = vulnerability.argsort(descending=True, stable=True)
    ranks = torch.arange(len(order), dtype=vulnerability.dtype, device=vulnerability.device)
    return torch.empty_like(vulnerability).scatter_(0, order, ranks)


def _squared_gaps(logits: Tensor, clean_logits: Tensor) -> Tensor:
    return (logits - clean_logits).square().sum(dim=1)


def _divergences(logits: Tensor, clean_logits: Tensor) -> Tensor:
    probabilities, ratios = _log_ratios(logits, clean_logits)
    return (probabilities * ratios).sum(dim=1)


def _log_ratios(logits: Tensor, clean_logits: Tensor) -> tuple[Tensor, Tensor]:
    """p and log p - log p' by class; 0 where p is, so that an infinite logarithm does not count there."""
    log_p = F.log_softmax(clean_logits, dim=1)
    p = log_p.exp()
    return p, (log_p - F.log_softmax(logits, dim=1)).masked_fill(p == 0, 0)


def _one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    """PyTorch's own, but for its look at the labels."""
    classes = torch.arange(logits.shape[1], device=labels.device)
    return (labels[:, None] == classes).to(logits.dtype)


def _l2_gradients(logits: Tensor, clean_logits: Tensor) -> tuple[Tensor, Tensor]:
    gradient = 2 * (logits - clean_logits)
    return gradient, -gradient


def _kl_gradients(logits: Tensor, clean_logits: Tensor) -> tuple[Tensor, Tensor]:
    p, ratios = _log_ratios(logits, clean_logits)
    divergences = (p * ratios).sum(dim=1, keepdim=True)
    return F.softmax(logits, dim=1) - p, p * (ratios - divergences)
