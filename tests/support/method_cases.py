"""Every objective beside its formula in tests/oracles/losses.py, and batches that formulas trip over."""

from __future__ import annotations

from typing import NamedTuple

import torch
from oracles import losses
from oracles.method_step import Loss, Nets
from torch import Tensor

from fastiseat import AT, ISEAT
from fastiseat.methods import MART, SLOREMART, TRADES, Method
from fastiseat.methods.trades import AdversarialFirst
from fastiseat.schedule import progress

NAMES = (
    "none",
    "at",
    "at-awp",
    "lsi",
    "iseat",
    "at-rice",
    "awp-wu",
    "trades",
    "trades-awp",
    "mart",
    "mart-awp",
    "slore-mart",
)
"""The entries of METHODS that need nothing but the batch."""


class Case(NamedTuple):
    """A method, its formula, and what ν climbs."""

    method: Method
    loss: Loss
    climbs: Loss


def _adversarial(nets: Nets, x: Tensor, x_adv: Tensor, y: list[int]) -> Tensor:
    z = nets.theta_nu(x_adv)
    return losses.at(z, z, y)


def _of_both(method: Method, formula, **numbers) -> Case:
    """The running statistics see x, then x'."""

    def loss(nets: Nets, x: Tensor, x_adv: Tensor, y: list[int]) -> Tensor:
        clean = nets.theta_nu(x)
        return formula(clean, nets.theta_nu(x_adv), y, **numbers)

    return Case(method, loss, loss)


def _adversarial_first(nets: Nets, x: Tensor, x_adv: Tensor, y: list[int]) -> Tensor:
    """TRADES, whose running statistics see x', then x."""
    adversarial = nets.theta_nu(x_adv)
    return losses.trades(nets.theta_nu(x), adversarial, y)


def _iseat(lam: float = 0.7, weighting: str = "linear", distance: str = "l2", smoothness: str = "lsiw") -> Case:
    def loss(nets: Nets, x: Tensor, x_adv: Tensor, y: list[int]) -> Tensor:
        clean = (nets.theta_nu if smoothness == "trades-awp" else nets.theta)(x)
        adversarial = nets.theta_nu(x_adv)
        alike = nets.theta(x_adv) if smoothness == "lsi" else adversarial
        weights = losses.vulnerability_weights(clean, alike, y, weighting)
        return losses.at(clean, adversarial, y) + losses.stability(
            clean, alike, weights, lam=lam, distance=distance
        )

    method = ISEAT(lam=lam, weighting=weighting, distance=distance, smoothness=smoothness)
    return Case(method, loss, _adversarial)


def _slore(epoch: int) -> Case:
    """In an epoch of 120, counted from 1."""
    method = SLOREMART().at_progress(progress(epoch - 1, 120)).reduced()
    return _of_both(method, losses.slore_mart, epoch=epoch)


ABLATIONS = {
    f"iseat-{weighting}-{distance}-{smoothness}": _iseat(0.7, weighting, distance, smoothness)
    for weighting in ("linear", "uniform", "top")
    for distance in ("l2", "kl")
    for smoothness in ("lsiw", "trades-awp", "lsi")
}
EQUATION_7 = _iseat(lam=2.5, weighting="top")
"""Without weight perturbation: η Σ over the tenth of the batch with the highest AV."""

CASES = {
    "at": Case(AT(), _adversarial, _adversarial),
    "trades": _of_both(TRADES(), losses.trades),
    "trades-beta-1": _of_both(TRADES(beta=1.0), losses.trades, beta=1.0),
    "trades-adversarial-first": Case(AdversarialFirst(), _adversarial_first, _adversarial_first),
    "mart": _of_both(MART(), losses.mart),
    "mart-beta-5": _of_both(MART(beta=5.0), losses.mart, beta=5.0),
    **{f"slore-mart-epoch-{epoch}": _slore(epoch) for epoch in (1, 2, 99, 100, 120)},
    **ABLATIONS,
}


class Logits(NamedTuple):
    """Of clean images and adversarial ones, at θ and at θ+ν, (m, C) each, and labels (m,)."""

    clean: Tensor
    adversarial: Tensor
    clean_nu: Tensor
    adversarial_nu: Tensor
    labels: Tensor


def _random(m: int, seed: int, classes: int = 5, scale: float = 2.0) -> Logits:
    generator = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(4, m, classes, dtype=torch.float64, generator=generator)
    return Logits(*z, torch.randint(classes, (m,), generator=generator))


def _labelled(logits: Logits, labels: Tensor) -> Logits:
    return logits._replace(labels=labels)


def _towards(logits: Logits, wanted: Tensor) -> Logits:
    """With ``wanted`` as every prediction, whose logits get 10 more."""
    more = 10 * torch.nn.functional.one_hot(wanted, logits.clean.shape[1])
    return Logits(*(z + more for z in logits[:4]), logits.labels)


def _tied(logits: Logits) -> Logits:
    """Logits of a few values that repeat within an image and from image to image."""
    coarse = (z.round() for z in logits[:4])
    return Logits(*(torch.cat([z[:-2], torch.zeros_like(z[-2:])]) for z in coarse), logits.labels)


_SOME = _random(9, 0)
BATCHES = {
    "mixed": _SOME,
    "many": _random(31, 1),
    "all-correct": _towards(_SOME, _SOME.labels),
    "all-wrong": _towards(_SOME, (_SOME.labels + 1) % 5),
    "one-class-only": _labelled(_SOME, torch.full((9,), 3)),
    "two-classes": _random(6, 2, classes=2),
    "ties": _tied(_random(10, 3)),
    "all-equal": Logits(*torch.zeros(4, 4, 5, dtype=torch.float64), torch.tensor([0, 1, 4, 0])),
    "two-images": _random(2, 4),
    "far-apart": _random(6, 5, scale=20.0),
}
