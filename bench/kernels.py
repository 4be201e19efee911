"""``bench kernels``: each op by each of its backends, held to the op's reference, then timed beside it."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastiseat.bench.inputs import SEED, Images
from fastiseat.bench.rounds import by_turns
from fastiseat.bench.verify import relative
from fastiseat.errors import UserError, unknown
from fastiseat.kernels import ops
from fastiseat.kernels.dispatch import AUTO, NAMES, REFERENCE, VARIABLE, Backend, Op
from fastiseat.kernels.idbh.policies import POLICIES
from fastiseat.kernels.segments import Segments

Make = Callable[[Images, int, torch.device], "Call | None"]


@dataclass(frozen=True, kw_only=True)
class Call:
    """An op's arguments, and how its results are judged and counted."""

    first: Tensor
    """The argument that tells device and dtype."""
    args: tuple[Tensor, ...]
    kwargs: dict[str, Any]
    moved: int
    """Bytes that must be read and written."""
    tolerance: float
    """Largest relative deviation of each result from the reference's."""
    written: tuple[Tensor, ...] = ()
    """Those arguments that the op writes into: results too."""


def pgd_step_call(images: Images, batch_size: int, device: torch.device) -> Call:
    """A step of the attack in the middle of its ball."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (batch_size, *images.shape)
    x, delta, grad = (_nhwc(torch.rand(shape, generator=generator)).to(device) for _ in range(3))
    return Call(
        first=x,
        args=((2 * delta - 1) * 8 / 255, grad - 0.5),
        kwargs={"eps": 8 / 255, "step_size": 2 / 255},
        moved=5 * x.numel() * x.element_size(),
        tolerance=1e-6,
    )


def augment_call(images: Images, batch_size: int, device: torch.device) -> Call:
    """Flip and crop of the paper's recipe."""
    return _augmentation(images, batch_size, device, flip=True, pad=4, pad_mode="zero")


def idbh_call(images: Images, batch_size: int, device: torch.device) -> Call | None:
    """The policy of CIFAR-10's recipe, which needs colours and room to crop."""
    policy = POLICIES["cifar10-weak"]
    if images.channels != 3 or images.side < policy.crop_shift[1]:
        return None
    return _augmentation(images, batch_size, device, policy=policy)


def _augmentation(images: Images, batch_size: int, device: torch.device, **settings: Any) -> Call:
    generator = torch.Generator().manual_seed(SEED)
    shape = (batch_size, *images.shape[1:], images.channels)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator).to(device)
    common = {"seed": SEED, "epoch": 1, "dtype": torch.float32, "memory_format": torch.channels_last}
    return Call(
        first=pixels,
        args=(torch.arange(batch_size, device=device),),
        kwargs=common | settings,
        moved=pixels.numel() * (1 + 4),
        tolerance=1e-6,
    )


def sgd_call(images: Images, batch_size: int, device: torch.device) -> Call:
    """ISEAT's update: momentum, two gradients, and the decay at the perturbed weights."""
    weights, buffer, *gradients = _flat(5, device)
    segments = _segments(device)
    others = {"active": None, "skip": None, "ema": None, "ema_decay": 0.0}
    return Call(
        first=weights,
        args=(buffer, gradients[0], segments.block_segment, segments.perturbed),
        kwargs={"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
        | {"second_grad": gradients[1], "perturbation_grad": gradients[2]}
        | {"ratio": torch.full((len(segments.perturbed),), 0.01, device=device)}
        | others,
        moved=7 * weights.numel() * weights.element_size(),
        tolerance=1e-6,
        written=(weights, buffer),
    )


def weight_perturb_call(images: Images, batch_size: int, device: torch.device) -> Call:
    """All weights at once, each tensor by its norms."""
    weights, grad, out = _flat(3, device)
    return Call(
        first=weights,
        args=(grad, *_segments(device)),
        kwargs={"gamma": 0.007, "norm": "tensor", "out": out, "out_full": None},
        moved=5 * weights.numel() * weights.element_size(),
        tolerance=1e-5,
        written=(out,),
    )


def _segments(device: torch.device) -> Segments:
    """On a GPU a network of 17 million weights, which no cache holds."""
    sizes = [2 ** (20 if device.type == "cuda" else 16)] * 16
    return Segments.of(sizes, perturbed=[True] * len(sizes), device=device)


def _flat(count: int, device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    length = _segments(device).num_elements
    return [torch.randn(length, generator=generator).to(device) for _ in range(count)]


def _nhwc(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


CALLS: dict[str, Make] = {
    "augment": augment_call,
    "idbh": idbh_call,
    "pgd_step": pgd_step_call,
    "sgd": sgd_call,
    "weight_perturb": weight_perturb_call,
}
"""What each op is called with, or None where it has no use for such images. Every op has an entry."""


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
        if name not in NAMES[1:]:
            raise unknown("backend", name, NAMES[1:])
    for op in ops():
        if (call := CALLS[op.name](images, batch_size, device)) is None:
            continue
        for backend in _wanted(op, backends):
            row = {"op": op.name, "backend": backend.name if backend else REFERENCE, "moved": call.moved}
            row["problem"] = problem(backend, call, op)
            if not row["problem"]:
                actions[len(rows)] = partial(_runner(op, backend), call.first, *call.args, **call.kwargs)
            rows.append(row)
    _require_any(rows, backends, device)
    timings = by_turns(actions, device=device, rounds=rounds, seconds=seconds, warm_up=2)
    for number, timing in timings.items():
        rate = rows[number]["moved"] / timing.median
        figures = {"median": timing.median, "spread": timing.spread, "share_of_bandwidth": rate / bandwidth}
        rows[number] |= figures | asdict(timing)
    return rows


def problem(backend: Backend[Any, Any] | None, call: Call, op: Op[Any, Any]) -> str:
    """Why there is no figure for a backend: it does not serve the call, or serves it wrongly."""
    if backend is None:
        return ""
    first, args, kwargs = call.first, call.args, call.kwargs
    if absent := backend.unsupported(first.device.type, first.dtype) or backend.unfit(first, *args, **kwargs):
        return f"absent: {absent}"
    found, expected = (_outcome(run, call) for run in (backend.run, op.reference))
    deviation = max(map(relative, found, expected))
    if deviation <= call.tolerance:
        return ""
    return f"wrong: {deviation:.2g} off the reference; {call.tolerance:g} is allowed"


def wrong_ops(images: Images, batch_size: int, device: torch.device) -> str:
    """The ops that a training step here would get wrong results from; empty where all is well."""
    wanted = os.environ.get(VARIABLE) or AUTO
    found = []
    for op in ops():
        if (call := CALLS[op.name](images, batch_size, device)) is None:
            continue
        chosen = op.choice(device.type, call.first.dtype, wanted)
        if chosen is not None and (told := problem(chosen, call, op)):
            found.append(f"{op.name} by {chosen.name} is {told}")
    return "; ".join(found)


def _wanted(op: Op[Any, Any], backends: Sequence[str]) -> list[Backend[Any, Any] | None]:
    return [None, *(backend for backend in op.backends if not backends or backend.name in backends)]


def _runner(op: Op[Any, Any], backend: Backend[Any, Any] | None) -> Callable[..., Any]:
    return backend.run if backend else op.reference


def _outcome(run: Callable[..., Any], call: Call) -> tuple[Tensor, ...]:
    """All results of one run; what it writes into is a copy."""
    call = copy.deepcopy(call) if call.written else call
    result = run(call.first, *call.args, **call.kwargs)
    returned = (result,) if isinstance(result, Tensor) else result or ()
    return (*returned, *call.written)


def _require_any(rows: Sequence[dict[str, Any]], backends: Sequence[str], device: torch.device) -> None:
    """A backend that was asked for by name and serves nothing here is an error, not an empty table."""
    for name in backends:
        found = [row for row in rows if row["backend"] == name]
        if not any(not row["problem"].startswith("absent") for row in found):
            why = found[0]["problem"] if found else "no op has it"
            raise UserError(f"backend {name} on {device}: {why}; leave it out, or see fastiseat doctor")
