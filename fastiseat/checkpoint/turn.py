"""What another config makes of a run that goes on with it."""

from __future__ import annotations

from dataclasses import asdict

from fastiseat.config import Config
from fastiseat.schedule import scalars_at


def turn(before: Config, after: Config, epoch: int) -> str:
    """What epoch ``epoch``, counted from 0, trains with under ``after`` that it would not under ``before``.

    Beyond the end of ``before`` it is compared with the last epoch. Empty where the scalars are the same and the
    schedule is as long.
    """
    old, new = (_scalars(config, epoch) for config in (before, after))
    moved = [f"{name} {old[name]:g} -> {new[name]:g}" for name in new if name in old and old[name] != new[name]]
    longer = before.schedule.epochs != after.schedule.epochs
    if not moved and not longer:
        return ""
    stays = [] if "lr" in {name for name in new if old.get(name) != new[name]} else [f"lr stays {new['lr']:g}"]
    why = f", as the stages are fractions of {after.schedule.epochs} epochs" if longer and moved else ""
    return f"from epoch {epoch + 1} on {', '.join([*stays, *moved])}{why}"


def _scalars(config: Config, epoch: int) -> dict[str, float]:
    return asdict(scalars_at(config, min(epoch, config.schedule.epochs - 1)))
