"""A module is left as found by what only looks at it, wherever that ends, and between its own passes by all else."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastiseat import AWP, ISEAT, PGD, TrainStep, UserError, evaluate
from fastiseat.engine.algorithm1 import StepInputs
from fastiseat.fusion.fuse import Fused, fuse
from fastiseat.fusion.undo import random_numbers

End = type[BaseException] | None


class Net(nn.Module):
    """Something to fuse, and code of all kinds at the call of the given number."""

    def __init__(self, meddle: Callable[[Net], object] = id, at: int = 0, end: End = None) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("later", None)
        self.seen, self.notes, self.plain = [1.0], {"a": 1}, torch.zeros(2)
        self.unseen = {"meddle": meddle, "at": at, "end": end, "count": 0}

    def forward(self, x: Tensor) -> Tensor:
        COUNT[0] += 1
        if COUNT[0] == self.unseen["at"]:
            self.unseen["meddle"](self)
            if self.unseen["end"] is not None:
                raise self.unseen["end"]("here")
        return self.head(F.relu(self.norm(self.conv(x))).mean((2, 3)))


# Apart from the module, whose state it would else be.
COUNT = [0]


@pytest.fixture(autouse=True)
def counted_anew() -> Iterator[None]:
    """And what a module that meddles may have switched is as before for the next test, if one fails."""
    COUNT[0] = 0
    put_back = random_numbers()
    yield
    put_back()
    torch.set_grad_enabled(True), torch.set_autocast_enabled("cpu", False), torch.set_default_dtype(torch.float32)


def images(m: int = 4) -> tuple[Tensor, Tensor]:
    return torch.rand(m, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(m)


def contents(value: Any) -> Any:
    """What of an attribute can be compared: objects by themselves, those in containers too."""
    if isinstance(value, dict):
        return id(value), [(key, contents(item)) for key, item in value.items()]
    if isinstance(value, list | set | tuple):
        return id(value), [contents(item) for item in value]
    return value if type(value) in (bool, int, float, str) else id(value)


def of_python(net: nn.Module) -> list[Any]:
    """Its attributes, hooks, modes and what its dicts hold; the world's switches and random numbers."""
    switches = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_default_dtype()
    numbers = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002
    tensors = [*net.parameters(), *net.buffers()]
    flags = [(tensor.requires_grad, tensor.grad is None, tensor.dtype) for tensor in tensors]
    return [*[contents(vars(module)) for module in net.modules()], flags, switches, numbers]


def values(net: Net) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in (*net.parameters(), *net.buffers(), net.plain)]


def assert_as_found(net: Net, found: list[Any], tensors: list[Tensor]) -> None:
    assert of_python(net) == found
    assert all(map(torch.equal, values(net), tensors))


def reassigned(net: Net) -> None:
    net.calls = net.calls + 1


def averaged(net: Net) -> None:
    net.calls = 0.9 * net.calls + 1


def in_short(net: Net) -> None:
    net.calls += 1


def given_later(net: Net) -> None:
    net.later = net.calls * 1


def of_norm(net: Net) -> None:
    net.norm.running_mean = net.norm.running_mean * 0.5


def another_weight(net: Net) -> None:
    net.conv.weight = nn.Parameter(torch.ones(4, 3, 3, 3))


def registered(net: Net) -> None:
    net.register_buffer("more", None)
    net.other = nn.ReLU()


def deleted(net: Net) -> None:
    del net.norm.num_batches_tracked, net.notes, net.conv


def hooked(net: Net) -> None:
    net.norm.register_forward_hook(lambda *_: None)
    net.register_full_backward_hook(lambda *_: None)


def other_modes(net: Net) -> None:
    net.norm.eval()
    net.training = not net.training


def frozen(net: Net) -> None:
    vars(net.conv)["_parameters"]["weight"].requires_grad_(False)


def attributes(net: Net) -> None:
    net.seen.append(2.0)
    net.notes["b"] = net.notes.pop("a")
    net.number, net.conv.stride = 3, (2, 2)


def drawn(net: Net) -> None:
    random.random(), np.random.rand(3)  # noqa: NPY002


def switched(net: Net) -> None:
    torch.set_grad_enabled(False)
    torch.set_autocast_enabled("cpu", True)
    torch.set_default_dtype(torch.float64)


def overwritten(net: Net) -> None:
    net.plain.add_(1)
    with torch.no_grad():
        net.conv.weight.mul_(2)
    net.head.weight.data = net.head.weight.data * 3


MEDDLES = [
    reassigned, averaged, in_short, given_later, of_norm, another_weight, registered, deleted, hooked, other_modes,
    frozen, attributes, drawn, switched, overwritten,
]  # fmt: skip
ENDS = [None, RuntimeError, KeyboardInterrupt, SystemExit]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("meddle", MEDDLES)
def test_by_tracing(meddle: Callable[[Net], object], end: End) -> None:
    net = Net(meddle, 1, end)
    found, tensors = of_python(net), values(net)
    with suppress(KeyboardInterrupt, SystemExit):
        fuse(net)
    assert_as_found(net, found, tensors)
    assert COUNT == [1]


# Tracing when it is built; in the first pass tracing for its mode, and a trial. What runs then is the graph.
FUSING = (1, 2, 3)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("meddle", MEDDLES)
def test_by_the_trial_of_a_graph(meddle: Callable[[Net], object], end: End) -> None:
    for at in FUSING[1:]:
        COUNT[0], net = 0, Net(meddle, at, end)
        fused = fuse(net)
        assert isinstance(fused, Fused)
        found, tensors = of_python(net), values(net)
        with suppress(Exception, KeyboardInterrupt, SystemExit):
            fused._learned(images()[0])
        assert_as_found(net, found, tensors)
        assert COUNT[0] >= at


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("meddle", MEDDLES)
def test_by_the_first_look_of_a_step(meddle: Callable[[Net], object], end: End) -> None:
    for at in FUSING:
        COUNT[0], net = 0, Net(meddle, at, end)
        found, tensors = of_python(net), values(net)
        with suppress(Exception, KeyboardInterrupt, SystemExit):
            TrainStep(net)._try(StepInputs(*images()))
        assert_as_found(net, found, tensors)
        assert COUNT[0] >= at


class Rereading(Net):
    """Code that runs in backwards too, and buffers that are assigned, not written."""

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


class Counting(Net):
    """It assigns buffers and attributes at each call."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.norm.later, self.number = 0.9 * self.calls + 1, COUNT[0]
        return super().forward(x)


def stepped(net: nn.Module, engine: str = "eager") -> TrainStep:
    step = TrainStep(
        net, engine=engine, method=ISEAT(lam=0.1), awp=AWP(gamma=0.01), attack=PGD(steps=2), clean_graph="keep"
    )
    step(*images())
    return step


@pytest.mark.parametrize("engine", ["eager", "tape"])
@pytest.mark.parametrize("end", ENDS[1:])
def test_by_a_step_that_ends_in_any_of_its_passes(end: type[BaseException], engine: str) -> None:
    """By a recording wherever it ends; by eager but for the running statistics of passes that came to their end."""
    for at in range(1, 50):
        COUNT[0], net = 0, Rereading(at=at, end=end)
        found, tensors = of_python(net), values(net)
        with suppress(UserError, RuntimeError, KeyboardInterrupt, SystemExit):
            stepped(net, engine)
            if COUNT[0] < at:
                break
            continue  # what raises where it is traced is not fused, and runs
        assert of_python(net) == found
        compared = values(net) if engine == "tape" else net.parameters()
        assert all(map(torch.equal, compared, tensors))
    assert COUNT[0] >= {"eager": 9, "tape": 15}[engine]


@pytest.mark.parametrize("meddle", [reassigned, averaged, in_short])
def test_a_module_that_assigns_buffers_is_not_fused_and_the_log_says_why(meddle: Any, caplog: Any) -> None:
    net = Net(meddle, 1)
    with caplog.at_level(logging.INFO):
        assert fuse(net) is net
    assert "Net is not fused: its forward writes attributes: calls" in caplog.text
    assert type(net.calls) is Tensor


def test_assigned_buffers_count_the_passes_that_leave_a_trace() -> None:
    net, step = Counting(), None
    step = stepped(net)
    assert net.calls == 3, "the clean pass, another one of the attack, the one at perturbed weights"
    step(*images())
    assert net.calls == 6
    assert net.norm.num_batches_tracked == 6
    assert net.norm.later == pytest.approx(0.9 * 6 + 1)


def test_a_recording_of_assigned_buffers_is_refused_without_a_trace() -> None:
    net = Counting()
    found, tensors = of_python(net), values(net)
    with pytest.raises(UserError, match="attributes are other ones after each pass"):
        stepped(net, "tape")
    assert_as_found(net, found, tensors)


@pytest.mark.filterwarnings("ignore:evaluation takes engine eager:RuntimeWarning")
def test_an_evaluation_counts_alike_by_each_engine() -> None:
    counts = []
    for engine in ("eager", "tape"):
        net = Counting().train()
        evaluate(net, *images(), ["pgd-2"], eps=0.1, engine=engine)
        assert all(module.training for module in net.modules())
        counts.append(float(net.calls))
    assert counts[0] == counts[1] >= 3


@pytest.mark.parametrize("engine", ["eager", "tape"])
def test_by_an_evaluation_that_is_interrupted(engine: str) -> None:
    for at in (1, 2, 3):
        COUNT[0], net = 0, Net(at=at, end=KeyboardInterrupt)
        found, tensors = of_python(net), values(net)
        with pytest.raises(KeyboardInterrupt):
            evaluate(net, *images(), ["pgd-2"], eps=0.1, engine=engine)
        assert_as_found(net, found, tensors)
