"""What happens to weights beside the gradient: their adversarial perturbation and their update."""

from fastiseat.weights.awp import perturbable, weight_perturbation
from fastiseat.weights.sgd import sgd_step

__all__ = ["perturbable", "sgd_step", "weight_perturbation"]
