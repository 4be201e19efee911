"""The attacks that a network is evaluated under, and what their names stand for."""

from __future__ import annotations

from dataclasses import dataclass

from fastiseat.config import PGD
from fastiseat.errors import UserError, unknown

ATTACKS = ("clean", "fgsm", "pgd")


@dataclass(frozen=True, kw_only=True)
class Attack:
    """L∞ attack on the cross entropy: ``steps`` of ``step_size`` in a ball of ``eps``; 0 steps is no attack.

    The first restart starts at δ = 0, further ones at U(-ε, ε). A sample counts as robust where the last
    iterate of every restart is classified correctly.
    """

    name: str
    eps: float = 0.0
    step_size: float = 0.0
    steps: int = 0
    restarts: int = 1

    def __post_init__(self) -> None:
        PGD(eps=self.eps, step_size=self.step_size)  # the one place that knows which ε and α are allowed
        for field, value, least in (("steps", self.steps, 0), ("restarts", self.restarts, 1)):
            if not value >= least:
                raise UserError(f"{field}={value}: must be at least {least}")
        if self.steps and self.eps and not self.step_size:
            raise UserError(f"step_size=0 with eps={self.eps:.4g}: the attack would never move; use eps/4 or so")


def attack_named(
    name: str, *, eps: float, steps: int = 10, step_size: float | None = None, restarts: int = 1
) -> Attack:
    """``clean``; ``fgsm``, one step of ε; ``pgd``, whose step is ε/4 by default (the paper's validation)."""
    if name == "clean":
        return Attack(name="clean")
    if name == "fgsm":
        return Attack(name="fgsm", eps=eps, step_size=eps, steps=1)
    if name == "pgd":
        if steps < 1:
            raise UserError(f"steps={steps}: must be at least 1; the attack of no steps is called clean")
        step = eps / 4 if step_size is None else step_size
        return Attack(name=f"pgd-{steps}", eps=eps, step_size=step, steps=steps, restarts=restarts)
    raise unknown("attack", name, ATTACKS)
