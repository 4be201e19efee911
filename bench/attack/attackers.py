"""Those that ``bench attack`` compares: this library's AutoAttack, and the authors' own."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fastiseat.bench.attack.inputs import AttackCase, Target
from fastiseat.bench.baselines.autoattack import OfficialAutoAttack
from fastiseat.bench.inputs import SEED
from fastiseat.evaluation import EnsembleAttack, EnsembleState, Evaluator
from fastiseat.evaluation.ensemble.ensembles import ensemble_named
from fastiseat.models import Network


@dataclass(frozen=True, kw_only=True)
class Run:
    """Verdicts (n,), and the seconds of the whole and of each part that had anything to do."""

    robust: npt.NDArray[np.bool_]
    seconds: float
    parts: dict[str, float]


Attacker = Callable[[Target, float], Run]
"""Attacks all images within an ε."""


@dataclass(kw_only=True)
class Laps:
    """Seconds by name; each look waits for the device."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began = self.last = self._now()

    def mark(self, name: str) -> None:
        """What has passed since the last mark belongs to ``name``."""
        now = self._now()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
        self.last = now

    def around(self, name: str, action: Callable[[], Any]) -> Any:
        """The time of ``action`` belongs to ``name``; its result."""
        self.last = self._now()
        result = action()
        self.mark(name)
        return result

    def total(self) -> float:
        """Since the beginning."""
        return self._now() - self.began

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def ours(
    model: Network, case: AttackCase, *, engine: str, precision: str, say: Callable[[str], None]
) -> tuple[str, Attacker]:
    """The engine that ``engine`` stands for here, and ``fastiseat eval``'s way with a network of our own."""
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device = next(model.parameters()).device

    def evaluator() -> Evaluator:
        return Evaluator(model, precision=precision, engine=engine, batch_size=case.batch_size, say=say)

    def attack(target: Target, eps: float) -> Run:
        _warm_up(model, target, case.batch_size)
        laps = Laps(device=device)
        attack = EnsembleAttack(name="aa", eps=eps, norm=case.norm)
        fresh = evaluator()  # whose recordings, if any, take their part of the time
        whole = ensemble_named("aa", norm=case.norm, num_classes=model.spec.num_classes, seed=SEED)
        ensemble = replace(whole, parts=tuple(part for part in whole.parts if part.name in case.parts))
        ensemble_state = EnsembleState.fresh(len(target.split))
        fresh.run_ensemble(
            target.split,
            attack,
            ensemble,
            ensemble_state,
            seed=SEED,
            on_sample=lambda part, _: laps.mark(part.name),
        )
        return Run(robust=ensemble_state.unbroken, seconds=laps.total(), parts=laps.seconds)

    return evaluator().engine.name, attack


def official(model: Network, case: AttackCase) -> Attacker:
    """The authors' code, on the network as it was loaded."""
    device = next(model.parameters()).device

    def attack(target: Target, eps: float) -> Run:
        _warm_up(model, target, case.batch_size)
        laps = Laps(device=device)
        theirs = OfficialAutoAttack(
            model, eps=eps, norm=case.norm, num_classes=model.spec.num_classes, device=device, seed=SEED
        )
        robust = theirs(*target.tensors, parts=case.parts, batch_size=case.batch_size, around=laps.around)
        return Run(robust=robust.numpy(), seconds=laps.total(), parts=laps.seconds)

    return attack


def _warm_up(model: nn.Module, target: Target, batch_size: int) -> None:
    """Libraries are loaded and algorithms chosen in the first pass of a size."""
    weight = next(model.parameters())
    x = target.tensors[0][:batch_size].to(weight.device).requires_grad_()
    torch.autograd.grad(model(x).sum(), x)
