"""What the ISEAT paper sets otherwise with its augmentation or with extra images. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastiseat.config import IDBH, Config
from fastiseat.names.data import own_kinds

Change = Callable[[Config], Config]

_TUNED = ("cifar10", *own_kinds())
"""The data sets with a number for both: CIFAR-10, and users' own, which take CIFAR-10's."""

NETWORKS_WITH_EXTRA = {"cifar10": "wrn-28-10"}
"""By data set, that of all published results with extra images, whatever the method."""


def idbh(config: Config) -> Config:
    """IDBH: γ = 0.005, and ISEAT trains twice as long; AT alone does not, it degrades."""
    epochs = config.schedule.epochs * (2 if config.objective.method == "iseat" else 1)
    return replace(config, awp=replace(config.awp, gamma=0.005), schedule=replace(config.schedule, epochs=epochs))


def extra(config: Config) -> Config:
    """Extra images: λ = 0.01, γ = 0.005."""
    return replace(config, objective=replace(config.objective, lam=0.01), awp=replace(config.awp, gamma=0.005))


def unpublished(config: Config) -> Config:
    """Its augmentation or extra images have no published numbers there: the data set's own stay."""
    return config


def varied(config: Config) -> Config:
    """``config``, a data set's recipe, with the numbers that its augmentation and its extra images ask for.

    With both, which the paper has not, they are those of extra images, and the epochs of IDBH.
    """
    for change in variations(config):
        config = change(config)
    return config


def variations(config: Config) -> list[Change]:
    """Which of the changes above apply, in their order."""
    asked = {idbh: config.data.augment.startswith(IDBH), extra: config.data.extra is not None}
    wanted: list[Change] = [change for change, is_wanted in asked.items() if is_wanted]
    if config.data.dataset.partition(":")[0] not in _TUNED:
        return [unpublished] if wanted else []
    return wanted
