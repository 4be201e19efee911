"""Settings that a method, or the shape of a schedule, does not have: they are refused rather than ignored.

What there is to be set is read off the config's own fields, so that a new one is looked at too. Imports no torch.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from fastiseat.config import AWP, PGD, SGD, Config, Data, Objective, Schedule, pixels_in_words
from fastiseat.errors import UserError
from fastiseat.fields import only
from fastiseat.names.balls import ball_words
from fastiseat.recipes.table import METHODS

OBJECTIVE = tuple(field.name for field in fields(Objective) if field.name != "method")
"""The options of methods: each is of those that declare it, ``Ingredients.options``."""
# What belongs to the data set, and is there whether a method attacks or perturbs weights or not.
_OF_ANY_METHOD = {PGD: ("eps", "step_size", "norm"), AWP: ("gamma",)}


def check_options(objective: Objective) -> None:
    """:class:`UserError` for an option that the method does not have; λ = 0 is none."""
    uses = METHODS[objective.method]
    for option, value in _asked_for(objective, OBJECTIVE):
        if option not in uses.options and not (option == "lam" and value == 0):
            having = ", ".join(name for name, other in METHODS.items() if option in other.options)
            raise UserError(
                f"{option}={value}: method {objective.method} has no such option; methods {having} have"
            )


def check_parts(config: Config) -> None:
    """:class:`UserError` for settings of an attack or a weight perturbation that the method never makes."""
    method, lam_from = config.objective.method, config.schedule.lam_from
    if not METHODS[method].stability and lam_from not in (0, Schedule().lam_from):  # 0 comes with recipes
        raise UserError(f"lam_from={lam_from}: method {method} has no stability term; leave it out")
    if METHODS[method].awp is None:
        settings = _asked_for(config.awp, _names(AWP)) + _asked_for(config.schedule, ["awp_from"])
        for name, value in settings:
            raise UserError(f"{name}={value}: method {method} has no weight perturbation; leave it out")
    if method == "none":
        for name, value in _asked_for(config.attack, _names(PGD)):
            raise UserError(f"{name}={value}: method none attacks nothing; leave it out, or take method at")


def check_images(data: Data, began: Data) -> None:
    """:class:`UserError` for settings of extra images that are not there, or of what a policy takes the place of.

    ``began`` is the recipe, whose own settings nobody asked for.
    """
    if data.extra is None and data.extra_ratio != began.extra_ratio:
        raise UserError(f"extra_ratio={data.extra_ratio}: there are no extra images; name their file by --extra")
    for name in ("flip", "crop_padding", "padding_mode"):
        value = getattr(data, name)
        if data.augment != "standard" and value != getattr(began, name):
            raise UserError(
                f"{name}={value}: augment {data.augment} takes the place of it; leave it out, or take augment standard"
            )


def check_ball(config: Config, began: Config) -> None:
    """:class:`UserError` for lengths in another ball than the recipe's that are the recipe's own.

    ``began`` is the recipe, whose own settings nobody asked for.
    """
    attack, theirs = config.attack, began.attack
    needed = ("eps",) if config.objective.method == "none" else ("eps", "step_size")
    for name in needed:
        value = getattr(attack, name)
        if attack.norm != theirs.norm and value == getattr(theirs, name) != 0:
            raise UserError(
                f"norm={attack.norm}: {name}={pixels_in_words(value)} is the recipe's, which is a length in the "
                f"{ball_words(theirs.norm).sign} ball; give {' and '.join(needed)} too: in L2 on CIFAR-10 128/255 and "
                "15/255 are common"
            )


def check_shape(config: Config, began: Config) -> None:
    """:class:`UserError` for settings of another shape than the schedule's, or a momentum that one-cycle passes over.

    ``began`` is the recipe, whose own settings nobody asked for.
    """
    plan, momentum = config.schedule, config.optimizer.momentum
    shapes = only(Schedule)
    for name, value in _asked_for(plan, shapes):
        if plan.lr_shape not in shapes[name] and value not in (None, getattr(began.schedule, name)):
            raise UserError(
                f"{name}={value}: lr_shape {plan.lr_shape} has none; it goes with lr_shape {' or '.join(shapes[name])}"
            )
    if plan.lr_shape == "onecycle" and plan.momentum_cycle is not None and momentum != SGD().momentum:
        ends, top = plan.momentum_cycle
        raise UserError(
            f"momentum={momentum}: lr_shape onecycle moves it from {ends} to {top} and back; say between what by "
            "momentum_cycle, or keep it by momentum_cycle None"
        )


def _names(kind: type[Any]) -> list[str]:
    return [field.name for field in fields(kind) if field.name not in _OF_ANY_METHOD[kind]]


def _asked_for(part: Any, names: Any) -> list[tuple[str, object]]:
    """Those of ``names`` that are not their part's default, with their values."""
    default = type(part)()
    return [(name, getattr(part, name)) for name in names if getattr(part, name) != getattr(default, name)]
