"""A whole run."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastiseat.config.attack import PGD
from fastiseat.config.awp import AWP
from fastiseat.config.data import Data
from fastiseat.config.network import Network
from fastiseat.config.objective import Objective
from fastiseat.config.optimizer import SGD
from fastiseat.config.run import Run
from fastiseat.config.schedule import Schedule
from fastiseat.fields import check_types


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. ``fastiseat.recipes.recipe(dataset, method)`` gives a complete and checked one."""

    data: Data = field(default_factory=Data)
    network: Network = field(default_factory=Network)
    objective: Objective = field(default_factory=Objective)
    attack: PGD = field(default_factory=PGD)
    awp: AWP = field(default_factory=AWP)
    optimizer: SGD = field(default_factory=SGD)
    schedule: Schedule = field(default_factory=Schedule)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def approximations(self) -> list[str]:
        """The settings that deviate from the published method to be faster."""
        gradient = self.awp.gradient
        return [f"awp-gradient {gradient}"] if self.awp.gamma and gradient != "exact" else []
