"""Complete settings by name: one function a data set, and what each method changes in it. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fastiseat.config import AWP, PGD, SGD, Config, Data, Network, Objective, Schedule
from fastiseat.errors import UserError, unknown


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """Which parts of ISEAT's step a method uses, and what it is in a few words."""

    summary: str
    stability: bool
    awp: bool


METHODS = {
    "none": Ingredients(summary="no defence: cross entropy on clean images", stability=False, awp=False),
    "at": Ingredients(summary="adversarial training (PGD)", stability=False, awp=False),
    "at-awp": Ingredients(summary="AT with weight perturbation", stability=False, awp=True),
    "lsi": Ingredients(summary="AT with weighted logit stability", stability=True, awp=False),
    "iseat": Ingredients(summary="AT with both: the paper's method", stability=True, awp=True),
}


def digits() -> Config:
    """Scikit-learn's 1,797 handwritten digits, 8×8 grey: robust on a laptop.

    ``fastiseat train`` trains it; ε = 0.15 is where an undefended network falls below chance.
    """
    return Config(
        data=Data(dataset="digits"),
        network=Network(arch="small"),
        attack=PGD(eps=0.15, step_size=0.0375),
        objective=Objective(lam=0.1),
        awp=AWP(gamma=0.007),
        optimizer=SGD(lr=0.1),
        schedule=Schedule(epochs=20),
    )


DATASETS: dict[str, Callable[[], Config]] = {"digits": digits}


def recipe(dataset: str = "digits", method: str = "iseat") -> Config:
    """The complete config for a (data set, method) pair; :class:`UserError` for an unknown name."""
    if dataset not in DATASETS:
        raise unknown("data set", dataset, DATASETS)
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    base, uses = DATASETS[dataset](), METHODS[method]
    return replace(
        base,
        objective=Objective(method=method, lam=base.objective.lam if uses.stability else 0.0),
        awp=replace(base.awp, gamma=base.awp.gamma if uses.awp else 0.0),
    )


def check(config: Config) -> Config:
    """``config`` as it came, or :class:`UserError` where its fields contradict each other."""
    recipe(config.data.dataset, config.objective.method)
    method, lam, gamma = config.objective.method, config.objective.lam, config.awp.gamma
    if lam and not METHODS[method].stability:
        raise UserError(f"lam={lam}: method {method} has no stability term; use lam 0, or method lsi or iseat")
    if gamma and method == "none":
        raise UserError(f"gamma={gamma}: method none trains on clean images; use awp-gamma 0, or method at-awp")
    return config
