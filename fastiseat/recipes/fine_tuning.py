"""The ISEAT paper's studies that begin with an AT-trained network. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fastiseat.config import Config
from fastiseat.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Study:
    """One of the paper's studies: what it changes in a method's recipe, and the method where none is named."""

    change: Callable[[Config], Config]
    method: str


def _ablation(config: Config) -> Config:
    """Tables 7 to 9: 40 epochs, lr 0.01 and from half of them on 0.001, λ from the first."""
    return _fine_tuned(config, epochs=40)


def _eq7(config: Config) -> Config:
    """Eq. 7, whose η is λ: 10 epochs, lr 0.01 and from half of them on 0.001, on the 10% of the highest AV."""
    if config.objective.method != "lsi":
        raise UserError(
            f"fine-tune eq7: Eq. 7 is method lsi, without weight perturbation; not {config.objective.method}"
        )
    return _fine_tuned(replace(config, objective=replace(config.objective, weighting="top", lam=1.0)), epochs=10)


def _fine_tuned(config: Config, *, epochs: int) -> Config:
    plan = replace(config.schedule, epochs=epochs, lr_shape="steps", lr_drops=(0.5,))
    plan = replace(plan, lam_from=0.0, awp_from=0.0, warmup=0.0)
    return replace(config, optimizer=replace(config.optimizer, lr=0.01), schedule=plan)


FINE_TUNING = {"ablation": Study(change=_ablation, method="iseat"), "eq7": Study(change=_eq7, method="lsi")}
"""The ISEAT paper's studies that begin with an AT-trained network, over the recipe of their method."""
