"""Training methods: each a short file with its inner loss and its objective; ``recipes.METHODS`` lists them."""

from __future__ import annotations

from importlib import import_module

from torch import nn

from fastiseat.config import Objective
from fastiseat.errors import UserError, unknown
from fastiseat.methods.at import AT
from fastiseat.methods.base import Method
from fastiseat.methods.consistency import Consistency
from fastiseat.methods.hat import HAT
from fastiseat.methods.iseat import ISEAT
from fastiseat.methods.mart import MART, SLOREMART
from fastiseat.methods.outputs import Outputs
from fastiseat.methods.standard import Standard
from fastiseat.methods.trades import TRADES
from fastiseat.recipes import METHODS, NEEDED, step_parts
from fastiseat.recipes.options import check_options


def from_config(objective: Objective, *, standard: nn.Module | None = None) -> Method:
    """The method that a config names; :class:`UserError` for an unknown name, or an option that it does not have.

    ``standard`` is the network in the file that the config's ``standard`` names.
    """
    if objective.method not in METHODS:
        raise unknown("method", objective.method, METHODS)
    check_options(objective)
    entry = METHODS[objective.method]
    module, _, name = entry.home.partition(":")
    kind: type[Method] = getattr(import_module(module), name)
    options = {option: getattr(objective, option) for option in entry.options}
    if "standard" in options:
        if standard is None:
            raise UserError(f"method {objective.method}: {NEEDED['standard']}")
        options["standard"] = standard
    return kind(**{option: value for option, value in options.items() if value is not None})


def named(name: str) -> Method:
    """The method of a name with its class's numbers; :class:`UserError` where it holds what no name can give."""
    if name in METHODS and "standard" in METHODS[name].options:
        raise UserError(
            f"method={name!r}: it holds a network without defence; give the method itself, "
            "fastiseat.methods.HAT(standard=network)"
        )
    return from_config(step_parts(name).objective)


__all__ = [
    "AT",
    "HAT",
    "ISEAT",
    "MART",
    "METHODS",
    "SLOREMART",
    "TRADES",
    "Consistency",
    "Method",
    "Outputs",
    "Standard",
    "from_config",
    "named",
]
