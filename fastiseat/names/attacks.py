"""What the attacks of an evaluation are called. Imports no torch."""

from __future__ import annotations

from fastiseat.errors import UserError, unknown

AUTOATTACK = {
    "apgd-ce": "the first part of aa alone: APGD on the cross entropy, 100 steps",
    "apgd-t": "the second: targeted APGD on the DLR loss, 100 steps for each of nine wrong classes",
    "fab-t": "the third: targeted FAB, 100 steps for each of nine wrong classes",
    "square": "the fourth: Square, 5,000 queries without a gradient",
}
"""The parts of the standard AutoAttack in their order, each of which is an attack of its own too."""

_TORCHATTACKS = "aa-torchattacks"
ENSEMBLES = {
    "aa": "AutoAttack, the standard: APGD-CE, APGD-T, FAB-T and Square",
    _TORCHATTACKS: "torchattacks' AutoAttack since 3.3, weaker: 10 steps for 100, all wrong classes as targets",
}
"""Several attacks in turn, each on the samples that are left."""

SEARCHES = {**ENSEMBLES, **AUTOATTACK}
"""What takes an ε and a ball alone."""

ATTACKS = {
    "clean": "no attack",
    "fgsm": "one step of ε from the image itself",
    "pgd": "ascent of the cross entropy in steps of ε/4; pgd-20 takes 20 of them",
    "cw": "the same on the margin of the best wrong class; cw-20",
    **SEARCHES,
}
"""All names, with what they stand for."""

ALSO_CALLED = {"autoattack": "aa", "auto-attack": "aa"}
"""Other people's names of them."""


def attack_called(name: str) -> str:
    """The name that an attack has here, for one in any case, or one of :data:`ALSO_CALLED`; others in lower case."""
    return ALSO_CALLED.get(name.lower(), name.lower())


def unknown_attack(name: str) -> UserError:
    """For one that is none of :data:`ATTACKS`. The weak AutoAttack is offered to nobody who does not ask for it."""
    known = {*ATTACKS, *ALSO_CALLED}
    return unknown("attack", name, known if "torch" in name.lower() else known - {_TORCHATTACKS})
