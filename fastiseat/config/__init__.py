"""What a run trains: frozen dataclasses, every check at the field it belongs to. Imports no torch.

The same values configure the command line, a run's ``config.json`` and :class:`fastiseat.TrainStep`.
"""

from __future__ import annotations

from fastiseat.config.attack import PGD
from fastiseat.config.awp import AWP
from fastiseat.config.data import IDBH, Augment, Data
from fastiseat.config.network import Network
from fastiseat.config.objective import Objective
from fastiseat.config.optimizer import MOMENTUM, SGD, Optimizer
from fastiseat.config.pixels import NoPixelsError, Pixels, pixels_in_words
from fastiseat.config.run import Execution, Run, WhichWeights
from fastiseat.config.schedule import Schedule
from fastiseat.config.whole import Config

__all__ = [
    "AWP",
    "IDBH",
    "MOMENTUM",
    "PGD",
    "SGD",
    "Augment",
    "Config",
    "Data",
    "Execution",
    "Network",
    "NoPixelsError",
    "Objective",
    "Optimizer",
    "Pixels",
    "Run",
    "Schedule",
    "WhichWeights",
    "pixels_in_words",
]
