"""What happens to weights beside the gradient: their adversarial perturbation and their update."""

from fastiseat.weights.awp import perturbable, weight_perturbation
from fastiseat.weights.sgd import sgd_step
from fastiseat.weights.updates import Updates, updates

__all__ = ["Updates", "perturbable", "sgd_step", "updates", "weight_perturbation"]
