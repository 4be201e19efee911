"""The training step: attack, weight perturbation, objective and update as one call."""

from fastiseat.engine.step import ENGINES, TrainStep

__all__ = ["ENGINES", "TrainStep"]
