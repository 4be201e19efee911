"""Accuracy under attack. The package is not called ``evaluate``: that name is kept for a function."""

from fastiseat.evaluation.attack import (
    ATTACKS,
    Attack,
    EnsembleAttack,
    any_attack_named,
    attack_named,
)
from fastiseat.evaluation.robustness import BATCH_SIZE, Evaluator, evaluate_split
from fastiseat.evaluation.sanity.masking import Check
from fastiseat.evaluation.sanity.signs import sanity_checks
from fastiseat.evaluation.verdicts.ensemble_state import EnsembleState
from fastiseat.evaluation.verdicts.finite import NotFiniteError

__all__ = [
    "ATTACKS",
    "BATCH_SIZE",
    "Attack",
    "Check",
    "EnsembleAttack",
    "EnsembleState",
    "Evaluator",
    "NotFiniteError",
    "any_attack_named",
    "attack_named",
    "evaluate_split",
    "sanity_checks",
]
