"""``bench kernels``: each op by each of its backends, held to the op's reference, then timed beside it."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from fastiseat.bench.deviation import relative
from fastiseat.bench.inputs import Images
from fastiseat.bench.kernels import compiled
from fastiseat.bench.kernels.call import Call
from fastiseat.bench.kernels.calls import calls
from fastiseat.bench.rounds import by_turns
from fastiseat.errors import UserError, unknown
from fastiseat.kernels import ops
from fastiseat.kernels.core import launches
from fastiseat.kernels.core.dispatch import AUTO, NAMES, REFERENCE, VARIABLE, AnyOp, Backend

PYTORCH = "torch"
BACKENDS = (*NAMES[1:], compiled.NAME, PYTORCH)
"""All that ``backends`` may name."""


def run(
    images: Images,
    batch_size: int,
    device: torch.device,
    *,
    backends: Sequence[str] = (),
    bandwidth: float,
    rounds: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """A row for each op and backend, the reference first; those that are absent or wrong have no figure."""
    rows: list[dict[str, Any]] = []
    actions: dict[int, Callable[[], object]] = {}
    for name in backends:
        if name not in BACKENDS:
            raise unknown("backend", name, BACKENDS)
    compiled.start_over()
    for op, label, call in _measured(images, batch_size, device):
        for backend in _wanted(op, call, backends, device):
            row = {"op": label, "backend": backend.name if backend else REFERENCE, "moved": call.moved}
            row["problem"] = problem(backend, call, op)
            if not row["problem"]:
                actions[len(rows)] = partial(_runner(op, backend), call.arguments)
            rows.append(row)
    _require_any(rows, backends, device)
    timings = by_turns(actions, device=device, rounds=rounds, seconds=seconds, warm_up=2)
    for number, timing in timings.items():
        rate = rows[number]["moved"] / timing.median
        figures = {"median": timing.median, "spread": timing.spread, "share_of_bandwidth": rate / bandwidth}
        rows[number] |= figures | asdict(timing)
    return rows


def problem(backend: Backend[Any, Any] | None, call: Call, op: AnyOp) -> str:
    """Why there is no figure for a backend: it does not serve the call, or serves it wrongly."""
    if backend is None:
        return ""
    first = op.first(call.arguments)
    if absent := backend.unsupported(first.device.type, first.dtype) or backend.unfit(call.arguments):
        return f"absent: {absent}"
    expected = _outcome(op.reference, call)
    try:
        found = _outcome(backend.run, call)
    except (UserError, torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # says nothing about the backend, or the device repeats it for whoever comes next
    except Exception as error:  # whatever a compiler or a driver raises
        return f"absent: it failed ({shorten(str(error) or type(error).__name__, 200, placeholder='…')})"
    deviation = max(map(relative, found, expected))
    if deviation <= call.tolerance:
        return ""
    return f"wrong: {deviation:.2g} off the reference; {call.tolerance:g} is allowed"


def wrong_ops(images: Images, batch_size: int, device: torch.device) -> str:
    """The ops that a training step here would get wrong results from; empty where all is well."""
    wanted = os.environ.get(VARIABLE) or AUTO
    found = []
    for op, label, call in _measured(images, batch_size, device):
        chosen = op.choice(device.type, op.first(call.arguments).dtype, wanted)
        # What does not fit a backend is the reference's, and nothing wrong.
        if chosen is not None and (told := problem(chosen, call, op)).startswith("wrong"):
            found.append(f"{label} by {chosen.name} is {told}")
    return "; ".join(found)


def _measured(images: Images, batch_size: int, device: torch.device) -> Iterator[tuple[AnyOp, str, Call]]:
    for op in ops():
        for label, call in calls(op.name, images, batch_size, device):
            yield op, label, call


def _wanted(op: AnyOp, call: Call, names: Sequence[str], device: torch.device) -> list[Backend[Any, Any] | None]:
    """The reference and the backends of these names; without names, those that are a gain on the device."""
    return [
        None,
        *(
            backend
            for backend in (*op.backends, *_rivals(op, call))
            if (backend.name in names if names else device.type not in backend.only_when_named)
        ),
    ]


def _rivals(op: AnyOp, call: Call) -> Iterator[Backend[Any, Any]]:
    """What PyTorch has to offer beside the reference."""
    yield compiled.compiled(op)
    if call.pytorch is not None:
        yield Backend(name=PYTORCH, run=call.pytorch, unsupported=lambda *_: "", unfit=lambda _: "")


def _runner(op: AnyOp, backend: Backend[Any, Any] | None) -> Callable[..., Any]:
    return backend.run if backend else op.reference


def _outcome(run: Callable[..., Any], call: Call) -> tuple[Tensor, ...]:
    """All results of one run; what it writes into is a copy."""
    call = copy.deepcopy(call) if call.written else call
    result = run(call.arguments)
    returned = (result,) if isinstance(result, Tensor) else result or ()
    return (*returned, *call.written)


def _require_any(rows: Sequence[dict[str, Any]], backends: Sequence[str], device: torch.device) -> None:
    """A backend that was asked for by name and serves nothing here is an error, not an empty table."""
    for name in backends:
        found = [row for row in rows if row["backend"] == name]
        if not any(not row["problem"].startswith("absent") for row in found):
            why = found[0]["problem"] if found else "no op has it"
            raise UserError(f"backend {name} on {device}: {why}; leave it out, or see fastiseat doctor")


@torch.no_grad()
def which_bn_act(model: nn.Module, x: Tensor) -> str:
    """The backend that serves bn_act in one layer of the network at least."""
    served: list[str] = []
    launches.watchers.append(served.append)
    try:
        copy.deepcopy(model).train()(x)
    finally:
        launches.watchers.remove(served.append)
    op = next(op for op in ops() if op.name == "bn_act")
    return op.explain(x.device, x.dtype, os.environ.get(VARIABLE) or AUTO)[0] if op.name in served else REFERENCE
