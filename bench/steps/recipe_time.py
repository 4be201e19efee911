"""How long a whole recipe takes at measured steps."""

from __future__ import annotations

from collections.abc import Mapping

from fastiseat.bench.steps.variants import NECESSARY
from fastiseat.config import Config
from fastiseat.recipes import METHODS
from fastiseat.schedule import scalars_at

# After each epoch one forward on clean images, and PGD-10: ten gradients and a last forward.
_VALIDATION_UNITS = 1 + 2 * 10 + 1


def mode(config: Config, epoch: int) -> str:
    """The method whose step an epoch takes: λ and γ come on with the schedule."""
    scalars = scalars_at(config, epoch)
    on = (scalars.lam > 0 and METHODS[config.objective.method].stability, scalars.gamma > 0)
    return {(False, False): "at", (False, True): "at-awp", (True, False): "lsi", (True, True): "iseat"}[on]


def hours(
    config: Config, steps: Mapping[str, float], units: Mapping[str, float], *, num_images: tuple[int, int]
) -> float:
    """Hours of training and validating by ``config``, from seconds a step by method.

    A mode that was not timed, and validation, are reckoned by their units from the longest step that was.
    """
    timed = max(steps, key=lambda method: steps[method])
    unit = steps[timed] / units[timed]
    per_epoch = num_images[0] // config.data.batch_size
    seconds = 0.0
    for epoch in range(config.schedule.epochs):
        now = mode(config, epoch)
        seconds += per_epoch * steps.get(now, unit * units.get(now, NECESSARY[now].units))
        seconds += num_images[1] / config.data.batch_size * unit * _VALIDATION_UNITS
    return seconds / 3600
