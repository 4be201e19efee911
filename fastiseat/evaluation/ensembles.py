"""Attacks that are several in turn, each on the samples that are left: AutoAttack, and the weaker one of torchattacks.

Croce and Hein, 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks". Parts and constants are those of the authors' ``version="standard"``.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastiseat.attacks.apgd import APGD
from fastiseat.attacks.fab import FAB
from fastiseat.attacks.search import Search
from fastiseat.attacks.square import Square
from fastiseat.errors import UserError, unknown

ENSEMBLES = {
    "aa": "AutoAttack, the standard: APGD-CE, APGD-T, FAB-T and Square",
    "aa-torchattacks": "torchattacks' AutoAttack since 3.3: 10 steps for 100, all wrong classes as targets",
}
# The targeted DLR loss divides by a distance of the first from the third and fourth logit.
_DLR_CLASSES = 4
_STANDARD_TARGETS = 9


@dataclass(frozen=True, kw_only=True)
class Part:
    """One attack of an ensemble; ``rounds`` runs on each sample, in round r at its r-th likeliest wrong class."""

    name: str
    search: Search
    rounds: int = 1


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Its parts in their order; ``notes`` say what this network makes different from the name's definition."""

    name: str
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()


def ensemble_named(name: str, *, norm: str, num_classes: int, seed: int = 0) -> Ensemble:
    """One of :data:`ENSEMBLES` for a network of ``num_classes``; :class:`UserError` for fewer than two."""
    if name not in ENSEMBLES:
        raise unknown("ensemble of attacks", name, ENSEMBLES)
    if num_classes < 2:
        raise UserError(f"{name} on a network of {num_classes} class: there is no wrong class; two are needed")
    standard = name == "aa"
    iterations, wanted = (100, _STANDARD_TARGETS) if standard else (10, num_classes - 1)
    targets = min(wanted, num_classes - 1)
    targeted = "dlr-t" if num_classes >= _DLR_CLASSES else "margin-t"
    ce, at_target = (
        APGD(loss=loss, norm=norm, iterations=iterations, seed=seed, stage=stage)
        for stage, loss in enumerate(("ce", targeted))
    )
    parts = (
        Part(name="apgd-ce", search=ce),
        Part(name="apgd-t", search=at_target, rounds=targets),
        Part(name="fab-t", search=FAB(norm=norm, iterations=iterations), rounds=targets),
        Part(name="square", search=Square(norm=norm, rescaled=not standard, seed=seed, stage=3)),
    )
    return Ensemble(name=name, parts=parts, notes=tuple(_notes(num_classes, targets, wanted)))


def _notes(num_classes: int, targets: int, wanted: int) -> list[str]:
    notes = []
    if num_classes < _DLR_CLASSES:
        notes.append(
            f"apgd-t: its DLR loss needs {_DLR_CLASSES} classes, the network has {num_classes}; the margin of target "
            "and label, without DLR's divisor, is climbed instead"
        )
    if targets < wanted:
        notes.append(f"apgd-t and fab-t: {targets} target classes for {wanted}, as the network has {num_classes}")
    return notes
