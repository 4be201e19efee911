"""The training step: attack, weight perturbation, objective and update as one call."""

from fastiseat.engine.recording.engines import ENGINES
from fastiseat.engine.step import TrainStep

__all__ = ["ENGINES", "TrainStep"]
