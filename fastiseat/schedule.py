"""Pure functions from an epoch, or a step in it, to the scalars that it trains with."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

from fastiseat.config import Config, Schedule

# Of torch.optim.lr_scheduler.OneCycleLR: the highest learning rate over the first, and the first over the last.
DIV_FACTOR, FINAL_DIV_FACTOR = 25.0, 1e4


@dataclass(frozen=True, kw_only=True)
class Scalars:
    """What :meth:`fastiseat.TrainStep.set` takes; names and units are those of the config."""

    lr: float
    momentum: float
    eps: float
    step_size: float
    lam: float
    gamma: float


def first_epoch(fraction: float, epochs: int) -> int:
    """The first epoch (counted from 0) of a stage that begins at ``fraction`` of ``epochs``.

    A fraction below 1 begins with the last epoch at the latest: a short run enters every stage. A run of one epoch has
    none but the first.
    """
    # 0.1 · 30 is 3.0000000000000004 in floating point and must still be epoch 3.
    start = math.ceil(fraction * epochs - 1e-9)
    return min(start, epochs - 1) if fraction < 1 < epochs else start


def progress(epoch: int, epochs: int) -> float:
    """How much of a run is over as an epoch begins: at least ``fraction`` where ``first_epoch`` of it has come."""
    return math.nextafter(1, 0) if 1 < epochs == epoch + 1 else epoch / epochs


def scalars_at(config: Config, epoch: int) -> Scalars:
    """The scalars of one epoch, counted from 0.

    Those that are :func:`moving` are those of the epoch's end, of many steps; :func:`scalars_of_step` has those of a
    step. λ and γ come on at ``lam_from`` and ``awp_from``. In the warm start of W epochs, epoch e trains with ε and α
    times e/W and without both regularisers (released code).
    """
    plan, attack = config.schedule, config.attack
    at = epoch + 1 if moving(plan) else epoch
    warm_epochs = first_epoch(plan.warmup, plan.epochs)
    warming = epoch < warm_epochs
    ramp = epoch / warm_epochs if warming else 1.0
    lam_on = not warming and epoch >= first_epoch(plan.lam_from, plan.epochs)
    awp_on = not warming and epoch >= first_epoch(plan.awp_from, plan.epochs)
    return Scalars(
        lr=_lr(config, at, step=0.0),
        momentum=_momentum(config, at, step=0.0),
        eps=attack.eps * ramp,
        step_size=attack.step_size * ramp,
        lam=config.objective.lam if lam_on else 0.0,
        gamma=config.awp.gamma if awp_on else 0.0,
    )


def moving(plan: Schedule) -> tuple[str, ...]:
    """The scalars that are set before each step, rather than each epoch."""
    if plan.lr_shape == "onecycle":
        return ("lr", "momentum") if plan.momentum_cycle else ("lr",)
    return ("lr",) if plan.lr_per_step else ()


def scalars_of_step(config: Config, epoch: int, step: int, steps_per_epoch: int) -> Scalars:
    """The scalars of one step, both counted from 0; those of its epoch but for what is :func:`moving`.

    A moving learning rate is taken at the step's end, epoch + (step + 1)/steps_per_epoch: a drop hits the last step of
    the epoch before (Rice et al.'s code).
    """
    found = scalars_at(config, epoch)
    if not moving(config.schedule):
        return found
    at, length = epoch + (step + 1) / steps_per_epoch, 1 / steps_per_epoch
    return replace(found, lr=_lr(config, at, step=length), momentum=_momentum(config, at, step=length))


def as_row(scalars: Scalars, plan: Schedule) -> dict[str, float]:
    """As an epoch's metrics and a run's plan have them: momentum only where it moves."""
    row = asdict(scalars)
    if "momentum" not in moving(plan):
        del row["momentum"]
    return row


def _lr(config: Config, at: float, *, step: float) -> float:
    """The learning rate ``at`` epochs into the run; ``step`` is the length of one in epochs."""
    return config.optimizer.lr * _share(config.schedule, at, step=step)


def _momentum(config: Config, at: float, *, step: float) -> float:
    """Likewise."""
    plan = config.schedule
    if plan.lr_shape != "onecycle" or plan.momentum_cycle is None:
        return config.optimizer.momentum
    ends, top = plan.momentum_cycle
    return _one_cycle(plan, at - step, step, (ends, top, ends))


def _share(plan: Schedule, at: float, *, step: float) -> float:
    """Of the learning rate, likewise."""
    match plan.lr_shape:
        case "cosine":
            return (1 + math.cos(math.pi * at / plan.epochs)) / 2
        case "onecycle":
            first = 1 / DIV_FACTOR
            return _one_cycle(plan, at - step, step, (first, 1.0, first / FINAL_DIV_FACTOR))
    drops = sum(at >= _start(drop, plan) for drop in plan.lr_drops)
    if plan.lr_stages:
        return plan.lr_stages[drops - 1] if drops else 1.0
    return plan.lr_factor**drops


def _start(drop: float, plan: Schedule) -> float:
    """Where a stage begins, in epochs; a step may begin one in the midst of an epoch."""
    return drop * plan.epochs - 1e-9 if plan.lr_per_step else first_epoch(drop, plan.epochs)


def _one_cycle(plan: Schedule, at: float, step: float, levels: tuple[float, float, float]) -> float:
    """From the first of ``levels`` to the second by half a cosine, from there to the third by another, from step to
    step; all lengths are in epochs.
    """
    top, end = plan.lr_warmup * plan.epochs - step, plan.epochs - step
    first, highest, last = levels
    if at < top:
        return _half_cosine(first, highest, at / top)
    return _half_cosine(highest, last, (at - top) / (end - top) if end > top else 0.0)


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))
