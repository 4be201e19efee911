"""A step's state as its ``load_state_dict`` takes it: all of it fits, or nothing is touched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastiseat.config import MOMENTUM
from fastiseat.engine.accept import check_tensor
from fastiseat.errors import UserError
from fastiseat.fields import require, require_at_least, shown, typed
from fastiseat.weights.layout import require_fit
from fastiseat.weights.state import NamedState

_PARTS: dict[str, Any] = {"steps_taken": int, "loss_scale": Mapping}
_NEEDED = "what TrainStep.state_dict() returned is needed"
_SCALE: dict[str, Any] = {"scale": float, "good_steps": int}
_MOST_STEPS = 2**63
_LARGEST = {"scale": 2.0**127, "good_steps": 2**31}


def check_state(state: Any, kept: NamedState) -> None:
    """:class:`UserError` unless it is what ``TrainStep.state_dict`` returned for a step that keeps the same."""
    _check_entries("state", state, _PARTS)
    _check_entries("loss_scale", state["loss_scale"], _SCALE)
    require_at_least(0, "steps_taken", state["steps_taken"])
    require(state["steps_taken"] < _MOST_STEPS, "steps_taken", state["steps_taken"], "must be below 2**63")
    for name in _SCALE:
        require_at_least(0, name, number := state["loss_scale"][name])
        require(number < _LARGEST[name], name, number, f"must be below {_LARGEST[name]:g}")
    template, optional, ranges = kept.template(), kept.optional(), kept.ranges()
    for name, own in template.items():
        if name in state or name not in optional:
            _check_named(name, state, own, ranges.get(name))
    for name in state.keys() - template.keys() - optional - _PARTS.keys():
        if state[name] != {}:  # it would be lost without a word
            raise UserError(
                f"state has {shown(name)}, which this step keeps none of: give it what kept that, or leave it out"
            )


def _check_entries(name: str, found: Any, entries: Mapping[str, Any]) -> None:
    typed(name, found, Mapping)
    for entry, kind in entries.items():
        if entry not in found:
            raise UserError(f"{name} has no {entry}: {_NEEDED}")
        require(not isinstance(found[entry], Tensor), entry, shown(found[entry]), "is a plain value, no tensor")
        typed(entry, found[entry], kind)


def _check_named(name: str, state: Mapping[str, Any], own: Any, ends: tuple[float, float] | None) -> None:
    """One entry, against the tensor, or the tensors by weight, that the step itself has there."""
    anew = "" if isinstance(own, Tensor) else ", or {} to begin it anew"
    if name not in state:
        raise UserError(f"state has no {name}: {_NEEDED}{anew}")
    found = state[name]
    if isinstance(own, Tensor):
        _check_tensor(name, found, own, ends)
        require(found.shape == own.shape, name, tuple(found.shape), f"must be of shape {tuple(own.shape)}")
        return
    for weight, tensor in typed(name, found, Mapping).items():
        _check_tensor(f"{name}[{weight!r}]", tensor, next(iter(own.values())), ends)
    require_fit("momentum" if name == MOMENTUM else name, found, own)


def _check_tensor(name: str, tensor: Any, own: Tensor, ends: tuple[float, float] | None) -> None:
    check_tensor(name, tensor)
    if own.is_floating_point():
        require(tensor.is_floating_point(), name, tensor.dtype, "must be floating-point numbers")
    else:
        require(tensor.dtype == own.dtype, name, tensor.dtype, f"must be {own.dtype}")
    if ends is not None:
        beyond = bool(((tensor < ends[0]) | (tensor > ends[1])).any())
        require(not beyond, name, "a value beyond them", f"must lie in {ends[0]:g} … {ends[1]:g}")
