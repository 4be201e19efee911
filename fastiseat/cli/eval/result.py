"""What ``fastiseat eval`` finds about one network, and what ``--json`` prints of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastiseat.evaluation.verdicts.records import Record


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One network on one split: a record an attack, and the file that each lies in."""

    records: Sequence[Record]
    files: Sequence[Path]
    group: str = ""
    """What means are taken over: those of equal groups."""

    @property
    def facts(self) -> dict[str, Any]:
        """What all its records have in common."""
        return self.records[0].facts

    @property
    def weights(self) -> str:
        """The path of the weights file."""
        return str(self.records[0].made["weights"])

    @property
    def official(self) -> bool | None:
        """Whether the data are the release's own."""
        known: bool | None = self.records[0].made["official"]
        return known

    @property
    def verified(self) -> bool:
        """Whether the images were compared with what was prepared."""
        return bool(self.records[0].made.get("verified"))

    @property
    def sanity(self) -> list[dict[str, Any]] | None:
        """The checks, if they were asked for."""
        return next((record.sanity for record in self.records if record.sanity is not None), None)

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints of it."""
        facts = self.facts
        named = {name: facts[name] for name in ("network", "dataset", "fingerprint", "split", "subset")}
        return {
            "weights": self.weights,
            **named,
            "official": self.official,
            "verified": self.verified,
            "seed": facts["seed"],
            "attacks": [row(record, file) for record, file in zip(self.records, self.files, strict=True)],
            "sanity": self.sanity,
        }


def row(record: Record, file: Path) -> dict[str, Any]:
    """An attack's parameters and what it leaves."""
    attack, correct, total = record.facts["attack"], int(record.robust.sum()), len(record.robust)
    parameters = {name: attack.get(name) for name in ("eps", "norm", "steps", "step_size", "restarts")}
    told_of: dict[str, Any] = {"attack": attack["name"], **parameters}
    told_of |= {name: record.facts[name] for name in ("backend", "precision")}
    told_of |= {"correct": correct, "total": total, "accuracy": correct / total}
    if len(record.parts) > 1:
        told_of["parts"] = [
            {"part": name, "robust": record.ensemble_state.robust_after(number)}
            for number, name in enumerate(("clean", *record.parts))
        ]
    if attack.get("parts"):
        told_of["notes"] = list(record.notes)
    return told_of | {"seconds": round(record.seconds, 3), "saved": str(file)}
