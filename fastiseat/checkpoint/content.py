"""What a checkpoint of a run must hold before anything of it is taken: all entries, by type, range and shape."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastiseat.checkpoint.fileformat import ForeignError
from fastiseat.checkpoint.identity import RUN, short
from fastiseat.engine.accept import check_tensor
from fastiseat.errors import UserError
from fastiseat.fields import require, require_at_least, shown, typed

_MOST = 2**63
_MEASURED = (bool, int, float, str, type(None))


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the checkpoints of one run have in common.

    Attributes:
        digests: of its settings, past and present. A checkpoint of an earlier version has none.
        model: the network's state dict.
        check_step: of the training step's state: :meth:`fastiseat.TrainStep.check_state_dict`.
        scores: what an epoch's row has an accuracy of.
        epoch_steps: steps of an epoch, at most.
        rollbacks: the most that there can have been.
    """

    digests: Sequence[str]
    model: Mapping[str, Tensor]
    check_step: Callable[[Any], None]
    scores: Collection[str]
    epoch_steps: int
    rollbacks: int

    def check(self, state: Mapping[str, Any], step: int | None) -> None:
        """:class:`ForeignError` unless ``state`` is one of the run after ``step`` steps."""
        if (found := state.get(RUN)) is not None and found not in self.digests:
            raise ForeignError(f"it is of run {short(found)}, here is {short(self.digests[-1])}")
        try:
            self._check(state, step)
        except UserError as error:
            raise ForeignError(str(error)) from error

    def _check(self, state: Mapping[str, Any], step: int | None) -> None:
        for name in ("model", "step", "rows"):
            require(name in state, name, None, "is missing")
        _check_model(state["model"], self.model)
        self.check_step(state["step"])
        taken = _exactly("steps_taken", state["step"]["steps_taken"], int)
        require(step is None or taken == step, "steps_taken", taken, f"must be {step}, as the file says")
        _check_rows(state["rows"], self.scores)
        here = taken - sum(row["steps"] for row in state["rows"])
        rule = f"must lie in 0 … {self.epoch_steps}, the steps of an epoch"
        require(0 <= here <= self.epoch_steps, "steps since the last epoch", here, rule)
        _check_meter(state.get("meter", {}), here)
        require_at_least(0, "seconds", _exactly("seconds", state.get("seconds", 0.0), float))
        rollbacks = _exactly("rollbacks", state.get("rollbacks", 0), int)
        require(0 <= rollbacks <= self.rollbacks, "rollbacks", rollbacks, f"must lie in 0 … {self.rollbacks}")


def _check_model(found: Any, model: Mapping[str, Tensor]) -> None:
    typed("model", found, Mapping)
    if different := sorted(map(str, found.keys() ^ model.keys())):
        raise UserError(f"model is another network's: it differs in {shown(different)}")
    for name, tensor in model.items():
        check_tensor(name, here := found[name])
        same = (here.shape, here.dtype) == (tensor.shape, tensor.dtype)
        require(same, name, f"{tuple(here.shape)} {here.dtype}", f"must be {tuple(tensor.shape)} {tensor.dtype}")
        require(bool(here.isfinite().all()), name, "NaN or infinite", "must be finite")


def _check_rows(rows: Any, scores: Collection[str]) -> None:
    for epoch, row in enumerate(typed("rows", rows, list)):
        name = f"rows[{epoch}]"
        typed(name, row, dict)
        for key, value in row.items():
            values = value if isinstance(value, list) else [value]
            plain = isinstance(key, str) and all(type(each) in _MEASURED and _in_range(each) for each in values)
            require(plain, f"{name}.{shown(key)}", shown(value), "must be a measured value")
        found = _exactly(f"{name}.epoch", row.get("epoch"), int)
        require(found == epoch, f"{name}.epoch", found, f"must be {epoch}")
        require_at_least(1, f"{name}.steps", _exactly(f"{name}.steps", row.get("steps"), int))
        _exactly(f"{name}.best", row.get("best"), bool)
        for score in scores:
            share = _exactly(f"{name}.{score}", row.get(score), float)
            require(0 <= share <= 1, f"{name}.{score}", share, "must lie in 0 … 1")


def _exactly(name: str, value: Any, kind: type) -> Any:
    """No tensor that would pass for a number, and no whole number for True."""
    wrong = type(value) is not kind and not (kind is float and type(value) is int)
    require(not wrong, name, shown(value), f"must be {kind.__name__}")
    return value


def _in_range(value: object) -> bool:
    return type(value) is not int or abs(value) < _MOST


def _check_meter(meter: Any, steps: int) -> None:
    """A number a step of each metric, and of ``av`` one a sample: what steps to come add to it and take the mean of."""
    for name, values in typed("meter", meter, Mapping).items():
        require(isinstance(name, str), "meter", shown(name), "has metrics by name")
        check_tensor(f"meter.{name}", values)
        fits = values.dim() == (2 if name == "av" else 1) and 1 <= len(values) <= steps
        rule = f"must be a number of each of {steps} steps"
        require(
            fits and values.is_floating_point(), f"meter.{name}", f"{tuple(values.shape)} {values.dtype}", rule
        )
        require(values.is_contiguous(), f"meter.{name}", "spread out", "must be as it was written")
