"""Accuracy under attack. The package is not called ``evaluate``: that name is kept for a function."""

from fastiseat.evaluation.attack import Attack, attack_named
from fastiseat.evaluation.robustness import BATCH_SIZE, Evaluator, evaluate_split

__all__ = ["BATCH_SIZE", "Attack", "Evaluator", "attack_named", "evaluate_split"]
