"""Pure functions from an epoch to the scalars that it trains with."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastiseat.config import Config


@dataclass(frozen=True, kw_only=True)
class Scalars:
    """What :meth:`fastiseat.TrainStep.set` takes; names and units are those of the config."""

    lr: float
    eps: float
    step_size: float
    lam: float
    gamma: float


def first_epoch(fraction: float, epochs: int) -> int:
    """The first epoch (counted from 0) of a stage that begins at ``fraction`` of ``epochs``."""
    # 0.1 · 30 is 3.0000000000000004 in floating point and must still be epoch 3.
    return math.ceil(fraction * epochs - 1e-9)


def scalars_at(config: Config, epoch: int) -> Scalars:
    """The scalars of one epoch, counted from 0.

    The learning rate drops where ``lr_drops`` says; λ and γ come on at ``lam_from`` and ``awp_from``. In the
    warm start of W epochs, epoch e trains with ε and α times e/W and without both regularisers (released code).
    """
    plan, attack = config.schedule, config.attack
    drops = sum(epoch >= first_epoch(drop, plan.epochs) for drop in plan.lr_drops)
    warm_epochs = first_epoch(plan.warmup, plan.epochs)
    warming = epoch < warm_epochs
    ramp = epoch / warm_epochs if warming else 1.0
    lam_on = not warming and epoch >= first_epoch(plan.lam_from, plan.epochs)
    awp_on = not warming and epoch >= first_epoch(plan.awp_from, plan.epochs)
    return Scalars(
        lr=config.optimizer.lr * plan.lr_factor**drops,
        eps=attack.eps * ramp,
        step_size=attack.step_size * ramp,
        lam=config.objective.lam if lam_on else 0.0,
        gamma=config.awp.gamma if awp_on else 0.0,
    )
