"""What happens to weights beside the gradient: their adversarial perturbation and their update."""

from fastiseat.weights.arena import Arena
from fastiseat.weights.awp import perturbable
from fastiseat.weights.layout import full_precision_names
from fastiseat.weights.updates import Update, update

__all__ = ["Arena", "Update", "full_precision_names", "perturbable", "update"]
