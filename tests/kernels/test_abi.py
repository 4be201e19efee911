"""What Python hands to the native libraries, held to what the headers say that they take."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from fastiseat.bench.inputs import images_of
from fastiseat.bench.kernels.calls import calls
from fastiseat.kernels import Segments, ops
from fastiseat.kernels.core import native
from fastiseat.kernels.core.dispatch import AnyOp

HEADERS = Path(__file__).parents[2] / "kernels" / "csrc"
SOURCE = "\n".join(path.read_text() for path in sorted(HEADERS.glob("*.h"))).replace("\\\n", " ")
HELD = {
    "float": torch.float32,
    "double": torch.float64,
    "int64_t": torch.int64,
    "int32_t": torch.int32,
    "uint8_t": (torch.uint8, torch.bool),
}
OPS = [pytest.param(op, id=op.name) for op in ops() if op.backends]


def parameters(name: str) -> list[str]:
    """The C types that a function takes before the number of threads or the stream."""
    (declared,) = re.findall(rf"{name}\(([^()]*)\);", SOURCE)
    macro, *more = declared.split(",")
    (arguments,) = re.findall(rf"#define {macro.strip()} (.*)", SOURCE)
    every = [one.strip() for one in (*arguments.split(","), *more)]
    assert every.pop() in ("int32_t num_threads", "void *stream")
    return [one.removeprefix("const ").rpartition(" ")[0] + "*" * one.count("*") for one in every]


def call_of(op: AnyOp, device: str, mode: FakeTensorMode) -> Any:
    """A record with everything that it may have, on a device that need not be there."""

    def there(value: Any) -> Any:
        if isinstance(value, Segments):
            return Segments(*map(there, value))
        if not isinstance(value, Tensor):
            return value
        like = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        return FakeTensor(mode, like, torch.device(device))

    call = next(call.arguments for _, call in calls(op.name, images_of("digits"), 3, torch.device("cpu")))
    extras = {
        "sgd": {"ema": call.weights, "lr": torch.tensor(0.1)} if op.name == "sgd" else {},
        "augment": {"rows": torch.arange(3), "epoch": torch.tensor(1)},
        "pgd_step": {"eps": torch.ones(3)},
        "bn_act_eval_backward": {"sums": True},
    }
    call = replace(call, **extras.get(op.name, {}))
    return replace(call, **{field.name: there(getattr(call, field.name)) for field in fields(call)})


def fits(value: Any, kind: str) -> bool:
    match value:
        case None:
            return kind.endswith("*")
        case Tensor():
            held = kind.rstrip("*")
            return kind.endswith("*") and (held == "void" or value.dtype in torch_types(held))
        case bool():
            return kind == "int32_t"
        case int():
            return kind == "int64_t"
        case float():
            return kind == "float"
        case _:
            return False


def torch_types(held: str) -> tuple[torch.dtype, ...]:
    found = HELD[held]
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("op", OPS)
def test_each_argument_is_of_the_type_that_the_header_has(op, device, monkeypatch):
    given: list[Any] = []
    monkeypatch.setattr(native, "call", lambda name, first, *arguments: given.extend((name, *arguments)))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    call = call_of(op, device, mode)
    with mode:
        next(backend for backend in op.backends if backend.name == "native").run(call)
    name, *arguments = given
    wanted = parameters(f"fastiseat_{name}" if device == "cpu" else f"fastiseat_cuda_{name}")
    assert len(arguments) == len(wanted)
    wrong = [
        (place, kind)
        for place, (one, kind) in enumerate(zip(arguments, wanted, strict=True))
        if not fits(one, kind)
    ]
    assert not wrong
