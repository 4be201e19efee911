"""What a step computes: its parts, and the numbers in them that may change from step to step."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from fastiseat.config import AWP, PGD, SGD, Optimizer
from fastiseat.errors import UserError, unknown
from fastiseat.fields import typed
from fastiseat.methods import ISEAT, Method, named
from fastiseat.pipelines.protocol.augmentation import Augmentation
from fastiseat.recipes import step_parts

# Which part each number that may change belongs to.
SCALARS = {
    "lr": "optimizer",
    "momentum": "optimizer",
    "eps": "attack",
    "step_size": "attack",
    "lam": "method",
    "gamma": "awp",
    "epoch": "augmentation",
}
# And where the step reads it.
_READ = {name: "trained" if owner == "method" else owner for name, owner in SCALARS.items()}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The parts of a step. Their numbers are Python's, or for a recorded step tensors on the device."""

    method: Method
    attack: PGD
    awp: AWP
    optimizer: Optimizer
    augmentation: Augmentation
    trained: Method = field(init=False)
    """What the method comes to with its numbers; decided by them, as tensors no longer tell."""
    needs_clean: bool = field(init=False)
    """Whether its objective takes clean logits at θ, likewise."""
    perturbs: bool = field(init=False)
    """Whether weights are perturbed, likewise."""
    writes: tuple[str, ...] | None = field(init=False)
    """The names of the optimizer's state that a step writes, None for all; likewise."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "trained", self.method.reduced())
        object.__setattr__(self, "needs_clean", self.trained.attacked and self.trained.needs_clean)
        object.__setattr__(self, "perturbs", self.awp.gamma != 0)
        object.__setattr__(self, "writes", self.optimizer.writes())

    @classmethod
    def of(
        cls,
        *,
        method: Method | str | None,
        attack: PGD | None,
        awp: AWP | None,
        optimizer: Optimizer | None,
        augmentation: Augmentation | None,
    ) -> Self:
        """From what a step is given: a name brings its recipe's attack and weight perturbation where there are none."""
        typed("method", method, Method | str | None)
        found = ISEAT() if method is None else named(method) if isinstance(method, str) else method
        its = step_parts(method) if isinstance(method, str) else None
        return cls(
            method=found,
            attack=_given("attack", attack, PGD, its.attack if its else found.default_attack),
            awp=_given("awp", awp, AWP, its.awp if its else AWP(gamma=0)),
            optimizer=_given("optimizer", optimizer, Optimizer, SGD()),
            augmentation=_given("augmentation", augmentation, Augmentation, Augmentation()),
        )

    def set(self, scalars: Mapping[str, float]) -> Self:
        """With other numbers; :class:`UserError` for a name that no part has, or a value that its part refuses."""
        changed: dict[str, Any] = {}
        for name, value in scalars.items():
            if name not in SCALARS:
                raise unknown("scalar", name, SCALARS)
            owner = SCALARS[name]
            current = changed.get(owner, getattr(self, owner))
            if name not in vars(current):
                raise UserError(f"{name}={value}: {owner} {type(current).__name__} has no {name}")
            changed[owner] = replace(current, **{name: value})
        return replace(self, **changed)

    def scalars(self) -> dict[str, float]:
        """The numbers that may change, by name, of the parts that have them."""
        found = {name: vars(getattr(self, owner)).get(name) for name, owner in _READ.items()}
        return {name: value for name, value in found.items() if value is not None}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """The same step, its numbers read from ``tensors`` () whenever it runs."""
        bound = copy.copy(self)
        for owner in dict.fromkeys(_READ[name] for name in tensors):
            part = copy.copy(getattr(self, owner))
            for name in (name for name in tensors if _READ[name] == owner):
                object.__setattr__(part, name, tensors[name])  # past the checks, which are for numbers
            object.__setattr__(bound, owner, part)
        return bound

    def structure(self) -> Hashable:
        """All but the numbers that may change: what differs here is another sequence of computations."""
        parts = []
        for owner in dict.fromkeys(_READ.values()):
            part = getattr(self, owner)
            fixed = {name: value for name, value in vars(part).items() if _READ.get(name) != owner}
            parts.append((type(part), tuple(fixed.items())))
        return self.perturbs, self.writes, tuple(parts)


def _given(name: str, part: Any, kind: type[Any], otherwise: Any) -> Any:
    return otherwise if part is None else typed(name, part, kind)


def scalar_tensor(name: str, weight: Tensor) -> Tensor:
    """Where a recorded step reads the number ``name``: on the device of ``weight``, of its dtype or an integer."""
    return torch.zeros((), dtype=torch.int64 if name == "epoch" else weight.dtype, device=weight.device)
