"""What verdicts depend on: by these facts ``fastiseat eval`` finds them again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastiseat.cli.eval.flags import Eval
from fastiseat.cli.eval.target import Subject
from fastiseat.evaluation import Attack, EnsembleAttack
from fastiseat.evaluation.ensemble.ensembles import Ensemble, ensemble_named
from fastiseat.evaluation.ensemble.official import package_version
from fastiseat.evaluation.verdicts.confirm import gains_from_half
from fastiseat.models import Network
from fastiseat.safe import open_file
from fastiseat.version import __version__


def facts_of(subject: Subject, attack: Attack | EnsembleAttack, arguments: Eval, half: str) -> dict[str, Any]:
    """All of them, in JSON's types; ``half`` is the precision that ``--amp`` looks in on this device."""
    official = is_official(attack, arguments)
    facts = {
        "weights_sha256": _checksum(subject.weights.file),
        "network": str(subject.model.spec),
        "normalize": _normalization(subject.model),
        "entry": arguments.entry,
        **subject.facts,
        "attack": _constants(subject, attack, arguments.seed) | ({"code": package_version()} if official else {}),
        "backend": "official" if official else "fastiseat",
        "precision": half if gains_from_half(attack) and not official else "full",
        "tf32": arguments.tf32,
        "seed": arguments.seed,
        # Random starts, and the official code's random numbers, are drawn a batch at a time.
        "batch_size": arguments.batch_size if official or _restarts(attack) > 1 else None,
        "version": __version__,
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


def is_official(attack: Attack | EnsembleAttack, arguments: Eval) -> bool:
    """Whether the authors' code runs it; there is none of theirs for clean images."""
    return arguments.backend == "official" and isinstance(attack, EnsembleAttack)


def ensemble_on(subject: Subject, attack: EnsembleAttack, seed: int) -> Ensemble:
    """The parts of ``attack`` for the subject's network."""
    classes = subject.model.spec.num_classes
    return ensemble_named(attack.name, norm=attack.norm, num_classes=classes, seed=seed)


def _checksum(file: Path) -> str:
    with open_file(file) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _constants(subject: Subject, attack: Attack | EnsembleAttack, seed: int) -> dict[str, Any]:
    if isinstance(attack, Attack):
        return asdict(attack)
    parts = [
        {"part": part.name, "rounds": part.rounds, **vars(part.search)}
        for part in ensemble_on(subject, attack, seed).parts
    ]
    return asdict(attack) | {"parts": parts}


def _normalization(model: Network) -> list[list[float]] | None:
    if model.normalize is None:
        return None
    return [buffer.tolist() for buffer in (model.normalize.mean, model.normalize.std)]


def _restarts(attack: Attack | EnsembleAttack) -> int:
    return attack.restarts if isinstance(attack, Attack) else 1
