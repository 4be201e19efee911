"""Which code perturbs and updates the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from fastiseat.errors import unknown
from fastiseat.weights.apex import Apex
from fastiseat.weights.awp import weight_perturbation
from fastiseat.weights.sgd import sgd_step

IMPLEMENTATIONS = ("own", "apex")


class Updates(NamedTuple):
    """The two functions of a step, with the signatures of the own ones."""

    weight_perturbation: Callable[..., dict[str, Tensor]]
    sgd_step: Callable[..., None]


def updates(implementation: str, weights: Mapping[str, Tensor]) -> Updates:
    """Those of ``own`` or ``apex`` for these weights; :class:`fastiseat.errors.UserError` where they cannot be had."""
    if implementation not in IMPLEMENTATIONS:
        raise unknown("optimizer", implementation, IMPLEMENTATIONS)
    if implementation == "own":
        return Updates(weight_perturbation, sgd_step)
    apex = Apex(weights)
    return Updates(apex.weight_perturbation, apex.sgd_step)
