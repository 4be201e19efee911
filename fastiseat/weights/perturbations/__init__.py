"""Weight perturbations: each has an ``init`` of its named state and an ``update``, which computes θ+ν."""

from fastiseat.weights.perturbations.awp import WeightPerturbation, perturbable
from fastiseat.weights.perturbations.base import Perturbation, Theta

__all__ = ["Perturbation", "Theta", "WeightPerturbation", "perturbable"]
