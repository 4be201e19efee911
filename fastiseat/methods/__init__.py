"""Training methods: each a short file with its inner loss and its objective."""

from __future__ import annotations

from fastiseat.config import Objective
from fastiseat.errors import unknown
from fastiseat.methods.at import AT
from fastiseat.methods.base import Method
from fastiseat.methods.iseat import ISEAT
from fastiseat.methods.standard import Standard

METHODS: dict[str, type[Method]] = {"none": Standard, "at": AT, "at-awp": AT, "lsi": ISEAT, "iseat": ISEAT}


def from_config(objective: Objective) -> Method:
    """The method that a config names; :class:`UserError` for an unknown name."""
    if objective.method not in METHODS:
        raise unknown("method", objective.method, METHODS)
    method = METHODS[objective.method]
    return ISEAT(lam=objective.lam) if method is ISEAT else method()


__all__ = ["AT", "ISEAT", "METHODS", "Method", "Standard", "from_config"]
