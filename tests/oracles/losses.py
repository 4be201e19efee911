"""The objectives of all methods, sample by sample from their formulas: slow, and meant to be obviously right.

z are logits (m, C), zc those of the clean images and za those of the adversarial ones; all return a scalar that
autograd can differentiate.
"""

from __future__ import annotations

import torch
from torch import Tensor


def log_p(z: Tensor) -> list[Tensor]:
    """log softmax of one sample's logits, class by class."""
    highest = max(z.tolist())
    total = sum(torch.exp(value - highest) for value in z)
    return [value - highest - torch.log(total) for value in z]


def probabilities(z: Tensor) -> list[Tensor]:
    return [torch.exp(value) for value in log_p(z)]


def ce(z: Tensor, y: int) -> Tensor:
    return -log_p(z)[y]


def kl(z: Tensor, other: Tensor) -> Tensor:
    """KL(p ‖ q), p and q the softmax of ``z`` and ``other``."""
    return sum(torch.exp(a) * (a - b) for a, b in zip(log_p(z), log_p(other), strict=True))


def mean(values: list[Tensor]) -> Tensor:
    return sum(values) / len(values)


def at(zc: Tensor, za: Tensor, y: list[int]) -> Tensor:
    return mean([ce(za[i], y[i]) for i in range(len(y))])


def trades(zc: Tensor, za: Tensor, y: list[int], beta: float = 6.0) -> Tensor:
    """CE(f(x), y) + β mean KL(p(x) ‖ p(x'))."""
    return mean([ce(zc[i], y[i]) + beta * kl(zc[i], za[i]) for i in range(len(y))])


def mart(zc: Tensor, za: Tensor, y: list[int], beta: float = 6.0) -> Tensor:
    """mean[CE(z', y) - log(1.0001 - p'_k + 1e-12)] + β mean[KL(p ‖ p' + 1e-12) (1.0000001 - p_y)]."""
    return mean([_mart_of_one(zc[i], za[i], y[i], beta) for i in range(len(y))])


def _mart_of_one(zc: Tensor, za: Tensor, y: int, beta: float) -> Tensor:
    p, p_adv = probabilities(zc), probabilities(za)
    wrong = [k for k in range(len(p)) if k != y]
    k = max(wrong, key=lambda k: (p_adv[k].item(), -k))
    boosted = ce(za, y) - torch.log(1.0001 - p_adv[k] + 1e-12)
    divergence = sum(p[c] * (log_p(zc)[c] - torch.log(p_adv[c] + 1e-12)) for c in range(len(p)))
    return boosted + beta * divergence * (1.0000001 - p[y])


def slore(zc: Tensor, y: list[int]) -> Tensor:
    """S_c - S_w; a group without members is 0."""
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for i in range(len(y)):
        p = probabilities(zc[i])
        others = [k for k in range(len(p)) if k != y[i]]
        predicted = max(range(len(p)), key=lambda k: (zc[i][k].item(), -k))
        share = (1 - p[y[i]]) / (len(p) - 1)
        groups[predicted == y[i]].append(sum((p[k] - share) ** 2 for k in others))
    correct, wrong = (mean(groups[which]) if groups[which] else torch.zeros(()) for which in (True, False))
    return correct - wrong


def slore_mart(zc: Tensor, za: Tensor, y: list[int], beta: float = 6.0, *, epoch: int = 1) -> Tensor:
    """In one of 120 epochs, counted from 1: R = S_c - S_w in the first, S_w - S_c from the 100th on, MART between."""
    loss = mart(zc, za, y, beta)
    if epoch == 1:
        return loss + slore(zc, y)
    return loss - slore(zc, y) if epoch >= 100 else loss


def vulnerability_weights(zc: Tensor, za: Tensor, y: list[int], kind: str) -> list[float]:
    """w of AV_i = ℓ'_i - ℓ_i: 1 - rank/m; all 1; or 1 for the tenth with the highest AV, at least one, else 0."""
    m = len(y)
    av = [(ce(za[i], y[i]) - ce(zc[i], y[i])).item() for i in range(m)]
    ranked = sorted(range(m), key=lambda i: (-av[i], i))
    top = -(-m // 10)
    given = {
        "linear": lambda rank: 1 - rank / m,
        "uniform": lambda rank: 1.0,
        "top": lambda rank: float(rank < top),
    }[kind]
    return [given(ranked.index(i)) for i in range(m)]


def stability(zc: Tensor, za: Tensor, weights: list[float], *, lam: float, distance: str) -> Tensor:
    """(λ/m) Σ w_i d(z'_i, z_i)."""

    def d(i: int) -> Tensor:
        return (
            kl(zc[i], za[i]) if distance == "kl" else sum((a - b) ** 2 for a, b in zip(za[i], zc[i], strict=True))
        )

    return lam * mean([weights[i] * d(i) for i in range(len(weights))])
