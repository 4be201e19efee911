"""A step's state as its ``load_state_dict`` takes it: all of it fits, or nothing is touched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fastiseat.engine.accept import check_tensor
from fastiseat.errors import UserError
from fastiseat.fields import require, require_at_least, shown, typed
from fastiseat.weights.layout import require_fit

_PARTS: dict[str, Any] = {"momentum_buffers": Mapping, "steps_taken": int, "loss_scale": Mapping}
_SCALE: dict[str, Any] = {"scale": float, "good_steps": int}
_MOST_STEPS = 2**63
_LARGEST = {"scale": 2.0**127, "good_steps": 2**31}


def check_state(state: Any, weights: Mapping[str, nn.Parameter]) -> None:
    """:class:`UserError` unless it is what ``TrainStep.state_dict`` returned for a network of these weights."""
    _check_entries("state", state, _PARTS)
    _check_entries("loss_scale", state["loss_scale"], _SCALE)
    require_at_least(0, "steps_taken", state["steps_taken"])
    require(state["steps_taken"] < _MOST_STEPS, "steps_taken", state["steps_taken"], "must be below 2**63")
    for name in _SCALE:
        require_at_least(0, name, number := state["loss_scale"][name])
        require(number < _LARGEST[name], name, number, f"must be below {_LARGEST[name]:g}")
    for kind in ("momentum_buffers", "last_gradients"):
        _check_tensors(kind, state.get(kind, {}), weights)


def _check_entries(name: str, found: Any, entries: Mapping[str, Any]) -> None:
    typed(name, found, Mapping)
    for entry, kind in entries.items():
        if entry not in found:
            raise UserError(f"{name} has no {entry}: what TrainStep.state_dict() returned is needed")
        require(not isinstance(found[entry], Tensor), entry, shown(found[entry]), "is a plain value, no tensor")
        typed(entry, found[entry], kind)


def _check_tensors(kind: str, found: Mapping[str, Tensor], weights: Mapping[str, nn.Parameter]) -> None:
    typed(kind, found, Mapping)
    for name, tensor in found.items():
        check_tensor(f"{kind}[{name!r}]", tensor)
        require(tensor.is_floating_point(), f"{kind}[{name!r}]", tensor.dtype, "must be floating-point numbers")
    require_fit(found, weights)
