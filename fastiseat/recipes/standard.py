"""The network without defence that HAT compares with. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from fastiseat.config import AWP, Config, Objective
from fastiseat.recipes.datasets import DATASETS


def standard_for(config: Config) -> Config:
    """The run that trains f_std for ``config``, a run of HAT: all of it, but for the defence.

    So do the authors: the same network, data, 50 epochs, OneCycle up to 0.21, Nesterov's momentum and weight decay
    5e-4, cross entropy of clean images alone; of its epochs, the one with the best clean accuracy on the test set, the
    later of two. That its first weights are drawn from the same seed as HAT's is inferred. What its epochs are shown
    under is the data set's attack, whatever HAT's is.
    """
    kind = config.data.dataset.partition(":")[0]
    return replace(
        config,
        network=replace(config.network, init=None),
        objective=Objective(method="none", lam=0.0),
        attack=DATASETS[kind]().attack,
        awp=AWP(gamma=0.0),
        run=replace(config.run, final_steps=0),
    )
