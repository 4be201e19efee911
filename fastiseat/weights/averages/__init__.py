"""Averages of the weights over the steps: each a file with an ``init`` of its named state and an ``update``."""

from fastiseat.weights.averages.base import Average
from fastiseat.weights.averages.ema import EMA

__all__ = ["EMA", "Average"]
