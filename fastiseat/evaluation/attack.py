"""The attacks that a network is evaluated under, and what their names stand for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastiseat.errors import UserError
from fastiseat.fields import MOST_STEPS, check_types, require_count, whole_number
from fastiseat.names import ATTACKS, SEARCHES, attack_called, unknown_attack
from fastiseat.names.balls import Norm, require_length

__all__ = ["ATTACKS", "Attack", "EnsembleAttack", "any_attack_named", "attack_named"]

_LENGTHS = {"eps": "the radius of the perturbation", "step_size": "the length of a step"}


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Ascent of ``loss``: ``steps`` of ``step_size`` in a ball of ``eps``; 0 steps is no attack.

    The first restart starts at δ = 0, further ones at random in the ball. A sample counts as robust where the last
    iterate of every restart is classified correctly. ``loss`` is one of :data:`fastiseat.attacks.losses.LOSSES`.
    """

    name: str
    eps: float = 0.0
    step_size: float = 0.0
    steps: int = 0
    restarts: int = 1
    norm: Norm = "linf"
    loss: str = "ce"

    def __post_init__(self) -> None:
        check_types(self)
        _check_lengths(self.norm, eps=self.eps, step_size=self.step_size)
        require_count(0, "steps", self.steps, most=MOST_STEPS)
        require_count(1, "restarts", self.restarts, most=MOST_STEPS)
        if self.steps and self.eps and not self.step_size:
            raise UserError(f"step_size=0 with eps={self.eps:.4g}: the attack would never move; use eps/4 or so")


@dataclass(frozen=True, kw_only=True)
class EnsembleAttack:
    """One of :data:`fastiseat.names.SEARCHES`, in a ball of ``eps``."""

    name: str
    eps: float
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        check_types(self)
        _check_lengths(self.norm, eps=self.eps)


def attack_named(
    name: str,
    *,
    eps: float,
    norm: Norm = "linf",
    steps: int = 10,
    step_size: float | None = None,
    restarts: int = 1,
) -> Attack:
    """``clean``; ``fgsm``, one step of ε; ``pgd`` and ``cw``, whose step is ε/4 by default (the paper's validation).

    ``cw`` is PGD on the margin of the best wrong class. ``pgd-20`` and ``cw-20`` tell their steps themselves. Names are
    read in any case.
    """
    name = attack_called(name)
    if name == "clean":
        return Attack(name="clean")
    if name == "fgsm":
        return Attack(name="fgsm", eps=eps, step_size=eps, steps=1, norm=norm)
    kind, steps = _told_steps(name, steps)
    if kind not in ("pgd", "cw"):
        raise unknown_attack(name)
    if steps < 1:
        raise UserError(f"steps={steps}: must be at least 1; the attack of no steps is called clean")
    step = eps / 4 if step_size is None else step_size
    loss = "ce" if kind == "pgd" else "margin"
    return Attack(
        name=f"{kind}-{steps}", eps=eps, step_size=step, steps=steps, restarts=restarts, norm=norm, loss=loss
    )


def any_attack_named(
    name: str,
    *,
    eps: float,
    norm: Norm = "linf",
    steps: int = 10,
    step_size: float | None = None,
    restarts: int = 1,
) -> Attack | EnsembleAttack:
    """:func:`attack_named`, or an :class:`EnsembleAttack`, which takes ε alone."""
    name = attack_called(name)
    if name in SEARCHES:
        return EnsembleAttack(name=name, eps=eps, norm=norm)
    return attack_named(name, eps=eps, norm=norm, steps=steps, step_size=step_size, restarts=restarts)


def _told_steps(name: str, steps: int) -> tuple[str, int]:
    told = re.fullmatch(r"(pgd|cw)-(\d+)", name)
    return (told[1], whole_number(told[2])) if told else (name, steps)


def _check_lengths(norm: str, **lengths: float) -> None:
    for name, length in lengths.items():
        require_length(norm, name, length, _LENGTHS[name])
