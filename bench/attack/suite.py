"""``bench attack``: AutoAttack by this library and by its authors' code, on the same network and images by turns."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from fastiseat.bench.attack.attackers import Attacker, Run, official, ours
from fastiseat.bench.attack.inputs import (
    PARTS,
    AttackCase,
    Target,
    Victim,
    classified_correctly,
    images_to_attack,
    victim,
)
from fastiseat.bench.inputs import images_of
from fastiseat.bench.steps.suite import Plan
from fastiseat.errors import UserError
from fastiseat.evaluation.ensemble.official import PACKAGE as NAME
from fastiseat.evaluation.ensemble.official import package_version

UNBROKEN_EPS = 1e-4
"""Within it next to nothing succeeds, so that every image has every part to the end."""
AGREEMENT, SPARED, HIGHER = 0.998, 2, 0.002
"""Verdicts that must agree, but for so many images; what may be left robust beyond the authors' code, or one image."""


@dataclass(frozen=True, kw_only=True)
class Attacks:
    """What is compared."""

    cases: tuple[AttackCase, ...] = ()
    variants: tuple[tuple[str, str], ...] = (("auto", "full"),)
    """Engines and precisions of ours."""
    official: bool = True
    rounds: int = 1


@dataclass(kw_only=True)
class AttackRow:
    """One attacker and its runs, one a round, or the problem that there are none for."""

    variant: str
    engine: str = ""
    precision: str = "full"
    attacker: Attacker | None = None
    problem: str = ""
    runs: list[Run] = field(default_factory=list)
    alike: int | None = None
    """Images of the same verdict as by the authors' code, in the worst round."""

    @property
    def ours(self) -> bool:
        """Whether it is this library's."""
        return self.variant != NAME

    def as_json(self, device: torch.device, parts: Sequence[str]) -> dict[str, Any]:
        """For a file of results; a row with a problem has no figure."""
        cuda = device.type == "cuda" and torch.backends.cudnn.allow_tf32
        told = {"variant": self.variant, "ours": self.ours, "engine": self.engine, "precision": self.precision}
        told |= {"tf32": cuda and not self.ours, "problem": self.problem}
        if self.problem:
            return told
        seconds = [run.seconds for run in self.runs]
        median = statistics.median(seconds)
        return told | {
            "median": median,
            "spread": (max(seconds) - min(seconds)) / median,
            "seconds": seconds,
            "parts": {part: statistics.median(run.parts.get(part, 0.0) for run in self.runs) for part in parts},
            "robust": int(self.runs[-1].robust.sum()),
            "alike": self.alike,
        }


def run_case(case: AttackCase, attacks: Attacks, plan: Plan) -> Iterator[dict[str, Any]]:
    """The images within ε, then those that are classified correctly within an ε at which none is lost."""
    try:
        found = victim(case, plan.device, plan.data_dir)
    except UserError as error:
        if case.weights is not None:
            raise
        yield {"title": f"{case.arch} on {case.dataset}", "problem": str(error), "rows": []}
        return
    target = images_to_attack(case, found, plan.data_dir)
    yield _compared(case, found, target, found.eps, attacks, plan)
    if case.unbroken and (robust := classified_correctly(target, found, case)) is not None:
        yield _compared(case, found, robust, UNBROKEN_EPS, attacks, plan, unbroken=True)


def _compared(
    case: AttackCase,
    found: Victim,
    target: Target,
    eps: float,
    attacks: Attacks,
    plan: Plan,
    *,
    unbroken: bool = False,
) -> dict[str, Any]:
    rows, size = _rows(case, found, attacks, plan), len(target.split)
    _take_turns(rows, target, eps, attacks.rounds, plan)
    judge(rows, size)
    arch = found.model.spec.arch
    where = images_of(found.dataset).title(found.dataset, case.batch_size)
    only = "" if case.parts == PARTS else f", {', '.join(case.parts)} alone"
    title = f"{arch} on {where}, {size} images, ε {eps:.4g} ({case.norm}){only}{', none breaks' * unbroken}"
    told = {"title": title, "problem": "", "arch": arch, "dataset": found.dataset, "batch_size": case.batch_size}
    told |= {"weights": found.weights, "images": size, "eps": eps, "norm": case.norm, "unbroken": unbroken}
    json = [row.as_json(plan.device, case.parts) for row in rows]
    return told | {"parts": list(case.parts), "rounds": attacks.rounds, "rows": json}


def _rows(case: AttackCase, found: Victim, attacks: Attacks, plan: Plan) -> list[AttackRow]:
    rows = []
    for wanted, precision in attacks.variants:
        engine, attacker = ours(found.model, case, engine=wanted, precision=precision, say=plan.progress.say)
        name = f"fastiseat-{engine}-{precision}"
        rows.append(AttackRow(variant=name, engine=engine, precision=precision, attacker=attacker))
    if attacks.official:
        try:
            package_version()
            rows.append(AttackRow(variant=NAME, attacker=official(found.model, case)))
        except UserError as error:
            rows.append(AttackRow(variant=NAME, problem=f"absent: {error}"))
    return rows


def _take_turns(rows: Sequence[AttackRow], target: Target, eps: float, rounds: int, plan: Plan) -> None:
    there = [row for row in rows if not row.problem]
    for number in range(rounds):
        for place, row in enumerate(there if number % 2 == 0 else reversed(there)):
            plan.progress.count("attacks", number * len(there) + place, rounds * len(there))
            if row.attacker is not None and not row.problem:
                _attack(row, partial(row.attacker, target, eps))
    plan.progress.count("attacks", rounds * len(there), rounds * len(there))


def _attack(row: AttackRow, attack: partial[Run]) -> None:
    try:
        row.runs.append(attack())
    except torch.OutOfMemoryError:
        row.problem = "does not fit into memory: lower --batch-size"
    except UserError as error:
        row.problem = f"cannot run: {error}"


def judge(rows: Sequence[AttackRow], size: int) -> None:
    """Take their figures from those of ours whose verdicts are not the authors' code's, where that has run."""
    reference = next((row for row in rows if not row.ours and not row.problem), None)
    for row in rows:
        if reference is None or not row.ours or row.problem:
            continue
        pairs = [(a.robust, b.robust) for a, b in zip(row.runs, reference.runs, strict=True)]
        row.alike = min(int(np.equal(a, b).sum()) for a, b in pairs)
        excess = max(int(a.sum()) - int(b.sum()) for a, b in pairs)
        if row.alike < AGREEMENT * size - SPARED:
            row.problem = f"not comparable: {row.alike} of {size} verdicts are those of {NAME}"
        elif excess > max(HIGHER * size, 1):
            row.problem = f"not comparable: {excess} of {size} images more than by {NAME} are left robust"
