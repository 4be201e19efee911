"""Accuracy under attack. The package is not called ``evaluate``: that name is kept for a function."""

from fastiseat.evaluation.robustness import Attack, attack_named, evaluate_split

__all__ = ["Attack", "attack_named", "evaluate_split"]
