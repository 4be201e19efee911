"""Attacks that are several in turn, each on the samples that are left: AutoAttack, and the weaker one of torchattacks.

Croce and Hein, 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks". Parts and constants are those of the authors' ``version="standard"``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fastiseat.attacks.search.apgd import APGD
from fastiseat.attacks.search.fab import FAB
from fastiseat.attacks.search.protocol import Search
from fastiseat.attacks.search.square import Square
from fastiseat.errors import UserError, unknown
from fastiseat.names import AUTOATTACK, ENSEMBLES, SEARCHES

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
    """One of :data:`~fastiseat.names.SEARCHES`; a part alone is as it is in the standard AutoAttack.

    :class:`UserError` for a network of fewer than two classes.
    """
    if name not in SEARCHES:
        raise unknown("ensemble of attacks", name, SEARCHES)
    if num_classes < 2:
        raise UserError(f"{name} on a network of {num_classes} class: there is no wrong class; two are needed")
    standard = name == "aa" or name in AUTOATTACK
    iterations, wanted = (100, _STANDARD_TARGETS) if standard else (10, num_classes - 1)
    targets = min(wanted, num_classes - 1)
    targeted = "dlr-t" if num_classes >= _DLR_CLASSES else "margin-t"
    apgd = partial(APGD, norm=norm, iterations=iterations, seed=seed)
    makes: dict[str, Callable[[], Search]] = {  # those that are not asked for may have no such ball
        "apgd-ce": partial(apgd, loss="ce", stage=0),
        "apgd-t": partial(apgd, loss=targeted, stage=1),
        "fab-t": partial(FAB, norm=norm, iterations=iterations),
        "square": partial(Square, norm=norm, rescaled=not standard, seed=seed, stage=3),
    }
    parts = tuple(
        Part(name=part, search=make(), rounds=targets if part.endswith("-t") else 1)
        for part, make in makes.items()
        if name in (part, *ENSEMBLES)
    )
    return Ensemble(name=name, parts=parts, notes=tuple(_notes(parts, num_classes, targets, wanted)))


def _notes(parts: tuple[Part, ...], num_classes: int, targets: int, wanted: int) -> list[str]:
    notes, names = [], [part.name for part in parts if part.name.endswith("-t")]
    if num_classes < _DLR_CLASSES and "apgd-t" in names:
        notes.append(
            f"apgd-t: its DLR loss needs {_DLR_CLASSES} classes, the network has {num_classes}; the margin of target "
            "and label, without DLR's divisor, is climbed instead"
        )
    if targets < wanted and names:
        notes.append(
            f"{' and '.join(names)}: {targets} target classes for {wanted}, as the network has {num_classes}"
        )
    return notes
