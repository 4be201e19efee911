"""Accuracy under attack. The package is not called ``evaluate``: that name is kept for a function."""

from fastiseat.evaluation.attack import (
    ATTACKS,
    Attack,
    EnsembleAttack,
    any_attack_named,
    attack_named,
)
from fastiseat.evaluation.finite import NotFiniteError
from fastiseat.evaluation.masking import Check
from fastiseat.evaluation.robustness import BATCH_SIZE, Evaluator, evaluate_split
from fastiseat.evaluation.sanity import sanity_checks
from fastiseat.evaluation.standing import Standing

__all__ = [
    "ATTACKS",
    "BATCH_SIZE",
    "Attack",
    "Check",
    "EnsembleAttack",
    "Evaluator",
    "NotFiniteError",
    "Standing",
    "any_attack_named",
    "attack_named",
    "evaluate_split",
    "sanity_checks",
]
