"""What happens to weights beside the gradient: their adversarial perturbation, their update and their average."""

from fastiseat.weights.arena import Arena
from fastiseat.weights.averages import EMA, Average
from fastiseat.weights.layout import full_precision_names
from fastiseat.weights.perturbations import perturbable
from fastiseat.weights.updates import Update

__all__ = ["EMA", "Arena", "Average", "Update", "full_precision_names", "perturbable"]
