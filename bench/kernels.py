"""``bench kernels``: each op by each of its backends, held to the op's reference, then timed beside it."""

from __future__ import annotations

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
    return _augmentation(images, batch_size, device, rows=None, flip=True, pad=4, pad_mode="zero")


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


def stability_loss_call(images: Images, batch_size: int, device: torch.device) -> Call:
    """ISEAT's objective in the middle of training."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (batch_size, images.num_classes)
    logits, clean_logits = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    return Call(
        first=logits,
        args=(clean_logits, torch.arange(batch_size, device=device) % images.num_classes),
        kwargs={"lam": 0.1, "weighting": "linear", "top": 0.1, "distance": "l2"},
        moved=5 * logits.numel() * logits.element_size(),
        tolerance=1e-5,
    )


def bn_act_call(images: Images, batch_size: int, device: torch.device) -> Call:
    """The first layers of a PreActResNet-18, with a residual sum."""
    a, b, *_ = _activations(images, batch_size, device)
    return Call(
        first=a,
        args=(b, *_affine(device)[:2]),
        kwargs={"eps": 1e-5},
        moved=5 * a.numel() * a.element_size(),
        tolerance=1e-5,
    )


def bn_act_backward_call(images: Images, batch_size: int, device: torch.device) -> Call:
    """Its gradient, with one that comes through the sum."""
    s, _, dy, ds = _activations(images, batch_size, device)
    moved = 6 * s.numel() * s.element_size()
    return Call(first=dy, args=(ds, s, *_affine(device)), kwargs={}, moved=moved, tolerance=1e-5)


def bn_act_eval_call(images: Images, batch_size: int, device: torch.device) -> Call:
    """The same layers with their running statistics."""
    a, b, *_ = _activations(images, batch_size, device)
    moved = 4 * a.numel() * a.element_size()
    return Call(first=a, args=(b, *_affine(device)), kwargs={"eps": 1e-5}, moved=moved, tolerance=1e-5)


def bn_act_eval_backward_call(images: Images, batch_size: int, device: torch.device) -> Call:
    """What an attack in evaluation mode asks for: no gradient of the weights."""
    s, _, dy, ds = _activations(images, batch_size, device)
    return Call(
        first=dy,
        args=(ds, s, *_affine(device)),
        kwargs={"eps": 1e-5, "sums": False},
        moved=4 * s.numel() * s.element_size(),
        tolerance=1e-5,
    )


def _activations(images: Images, batch_size: int, device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    shape = (batch_size, _CHANNELS, *images.shape[1:])
    return [_nhwc(torch.randn(shape, generator=generator)).to(device) for _ in range(4)]


def _affine(device: torch.device) -> list[Tensor]:
    """Weight, bias, mean, and a variance or its inverse root."""
    generator = torch.Generator().manual_seed(SEED)
    weight, bias, mean, var = (torch.rand(_CHANNELS, generator=generator) for _ in range(4))
    return [x.to(device) for x in (weight + 0.5, bias - 0.5, mean - 0.5, var + 0.5)]


def _nhwc(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


_CHANNELS = 64

CALLS: dict[str, Make] = {
    "augment": augment_call,
    "bn_act": bn_act_call,
    "bn_act_backward": bn_act_backward_call,
    "bn_act_eval": bn_act_eval_call,
    "bn_act_eval_backward": bn_act_eval_backward_call,
    "idbh": idbh_call,
    "pgd_step": pgd_step_call,
    "stability_loss": stability_loss_call,
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
    found, expected = (_results(run(first, *args, **kwargs)) for run in (backend.run, op.reference))
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


def _results(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result


def _require_any(rows: Sequence[dict[str, Any]], backends: Sequence[str], device: torch.device) -> None:
    """A backend that was asked for by name and serves nothing here is an error, not an empty table."""
    for name in backends:
        found = [row for row in rows if row["backend"] == name]
        if not any(not row["problem"].startswith("absent") for row in found):
            why = found[0]["problem"] if found else "no op has it"
            raise UserError(f"backend {name} on {device}: {why}; leave it out, or see fastiseat doctor")
