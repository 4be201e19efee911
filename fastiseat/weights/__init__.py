"""What happens to weights beside the gradient: their adversarial perturbation and their update."""

from fastiseat.weights.arena import Arena
from fastiseat.weights.awp import perturbable, weight_perturbation
from fastiseat.weights.layout import full_precision_names
from fastiseat.weights.sgd import sgd_step
from fastiseat.weights.updates import Updates, updates

__all__ = [
    "Arena",
    "Updates",
    "full_precision_names",
    "perturbable",
    "sgd_step",
    "updates",
    "weight_perturbation",
]
