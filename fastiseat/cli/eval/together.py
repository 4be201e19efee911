"""Several evaluations together: means over them, or two of them sample by sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastiseat.cli.eval.result import Evaluation
from fastiseat.errors import UserError
from fastiseat.evaluation.verdicts.records import Record

_DATA = ("dataset", "fingerprint", "split", "subset")
_SHOWN = 20


def means(found: Sequence[Evaluation]) -> tuple[list[dict[str, Any]], list[str]]:
    """Mean and sample SD (n - 1) of each attack's accuracy, and why some attacks have none.

    Evaluations of other data, another ball, or by another backend are not one quantity, and get no mean.
    """
    columns: list[dict[str, Any]] = []
    refused: list[str] = []
    for (group, name), records in _columns(found).items():
        differing = _differing([_conditions(record) for record in records])
        if differing:
            refused.append(f"no mean of {name}: the targets differ in {differing}")
        elif len(records) > 1:
            accuracies = [float(record.robust.mean()) for record in records]
            columns.append(
                {
                    "attack": name,
                    "group": group,
                    "backend": records[0].facts["backend"],
                    "targets": len(records),
                    "mean": float(np.mean(accuracies)),
                    "sd": float(np.std(accuracies, ddof=1)),
                }
            )
    return columns, refused


def _columns(found: Sequence[Evaluation]) -> dict[tuple[str, str], list[Record]]:
    columns: dict[tuple[str, str], list[Record]] = {}
    for evaluation in found:
        for record in evaluation.records:
            columns.setdefault((evaluation.group, record.facts["attack"]["name"]), []).append(record)
    return columns


def _conditions(record: Record) -> dict[str, Any]:
    facts = record.facts
    ball = {name: facts["attack"].get(name) for name in ("eps", "norm", "step_size", "restarts")}
    return {name: facts[name] for name in (*_DATA, "backend")} | ball


def _differing(conditions: Sequence[dict[str, Any]]) -> str:
    """The conditions that are not the same for all, with their values."""
    found = []
    for name in conditions[0]:
        values = list(dict.fromkeys(str(condition[name]) for condition in conditions))
        if len(values) > 1:
            found.append(f"{name} ({', '.join(values)})")
    return "; ".join(found)


def require_same_data(facts: Sequence[Mapping[str, Any]]) -> None:
    """:class:`UserError` where they are facts of other images."""
    differing = _differing([{name: each[name] for name in _DATA} for each in facts])
    if differing:
        raise UserError(f"--compare: the evaluations differ in {differing}; evaluate both on the same images")


def comparison(first: Evaluation, second: Evaluation) -> dict[str, Any]:
    """For each attack that both have, on which samples their verdicts agree; :class:`UserError` where they are of
    different images, or of no common attack.
    """
    require_same_data([each.facts for each in (first, second)])
    others = {_ball(record): record for record in second.records}
    rows = [_agreement(record, others[_ball(record)]) for record in first.records if _ball(record) in others]
    if not rows:
        raise UserError("--compare: no attack of the same name, norm and ε is in both; evaluate them alike")
    return {"first": first.weights, "second": second.weights, "attacks": rows}


def _ball(record: Record) -> tuple[Any, ...]:
    attack = record.facts["attack"]
    return attack["name"], attack["norm"], attack["eps"]


def _agreement(first: Record, second: Record) -> dict[str, Any]:
    one, two = first.robust, second.robust
    return {
        "attack": first.facts["attack"]["name"],
        "total": len(one),
        "agreement": float((one == two).mean()),
        "both": int((one & two).sum()),
        "only_first": int((one & ~two).sum()),
        "only_second": int((~one & two).sum()),
        "neither": int((~one & ~two).sum()),
        "differing": [int(row) for row in np.flatnonzero(one != two)[:_SHOWN]],
    }
