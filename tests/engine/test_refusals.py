"""What a recording would not do again must not be recorded, and an attempt leaves no trace."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from refused import (
    REFUSED,
    BooleanMask,
    BranchOnAValue,
    Counter,
    HiddenSync,
    Nonzero,
    NumPysRandom,
    OwnGenerator,
    PythonsRandom,
    Raises,
    ToList,
    Unique,
)
from side_by_side import Plain, assert_same, batch, everything, step
from torch import Tensor, nn

from fastiseat import PGD, TrainStep, UserError
from fastiseat.engine import step as step_module

refused = pytest.mark.parametrize(
    ("kind", "reason"), REFUSED.items(), ids=lambda value: getattr(value, "__name__", "")
)


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(2)
    return kind().double()


def arm(one: TrainStep) -> None:
    if isinstance(one.model, Raises):
        one.num_classes = 10
        one.model.armed = True


@refused
def test_a_step_that_a_replay_would_not_repeat_is_refused(kind: type[nn.Module], reason: str) -> None:
    one = step(made(kind), "tape", attack=PGD(steps=2))
    one.load_state_dict(
        one.state_dict() | {"momentum_buffers": {"head.bias": torch.ones(10, dtype=torch.float64)}}
    )
    arm(one)
    before, found = copy.deepcopy(everything(one)), global_state()
    modes = [module.training for module in one.model.eval().modules()]
    calls = getattr(one.model, "calls", 0)
    with pytest.raises(
        UserError, match=r"engine=tape: this step cannot be recorded: .*; take engine eager"
    ) as error:
        one(*batch())
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    after = everything(one)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert global_state() == found
    assert [module.training for module in one.model.modules()] == modes
    assert getattr(one.model, "calls", 1) <= calls + 1  # the first look at the module
    assert not one.engine._recorder._recordings


def global_state() -> tuple[object, ...]:
    numbers = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    return (*numbers, torch.get_num_threads(), torch.is_grad_enabled())


@pytest.fixture
def auto_is_tape(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is graph on a GPU."""
    honest = step_module.engine_named
    monkeypatch.setattr(
        step_module, "engine_named", lambda name, *others: honest("tape" if name == "auto" else name, *others)
    )


@refused
@pytest.mark.usefixtures("auto_is_tape")
def test_auto_falls_back_and_says_why_in_one_line(kind: type[nn.Module], reason: str) -> None:
    if kind in (PythonsRandom, NumPysRandom, OwnGenerator, Raises):
        pytest.skip("by eager it is another step each time")
    said: list[str] = []
    eager, auto = step(made(kind), "eager"), step(made(kind), "auto", say=said.append)
    for n in range(3):
        for one in (eager, auto):
            one(*batch(n))
    assert auto.engine.name == "eager"
    assert len(said) == 1
    assert said[0].startswith("engine=auto takes eager: this step cannot be recorded: ")
    assert reason in said[0]
    assert "\n" not in said[0]
    assert_same(auto, eager)
    assert getattr(auto.model, "calls", 0) == getattr(eager.model, "calls", 0)


class TurnsBad(Plain):
    """It can be recorded until it is told to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = False

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * (1 + x.mean().item()) if self.waits else x)


@pytest.mark.usefixtures("auto_is_tape")
def test_auto_falls_back_in_the_middle_of_a_run() -> None:
    said: list[str] = []
    eager, auto = step(made(TurnsBad), "eager"), step(made(TurnsBad), "auto", say=said.append)
    for n in range(4):
        for one in (eager, auto):
            one.model.waits = n >= 2
            one(*batch(n))
        assert auto.engine.name == ("eager" if n >= 2 else "tape")
        assert_same(auto, eager)
    assert len(said) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("graph", "engine=graph: it records on a cuda device, the model lies on cpu; take engine eager, or auto"),
        ("tapes", "unknown engine 'tapes'; did you mean tape"),
    ],
)
def test_an_engine_that_cannot_be_had_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        step(made(Plain), name)


# On a card other things fail than on the tape, and the driver says so.
ON_CUDA = [HiddenSync, BranchOnAValue, Nonzero, BooleanMask, Unique, ToList, PythonsRandom, Counter, Raises]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ON_CUDA)
def test_a_failed_capture_leaves_the_device_as_it_was(kind: type[nn.Module]) -> None:
    one = step(made(kind).cuda(), "graph", attack=PGD(steps=2, random_start=True))
    arm(one)
    before, numbers = everything(one), torch.cuda.get_rng_state()
    with pytest.raises(UserError, match="engine=graph: this step cannot be recorded"):
        one(*batch(device="cuda"))
    assert all(torch.equal(everything(one)[name], tensor) for name, tensor in before.items())
    assert torch.equal(torch.cuda.get_rng_state(), numbers)
    assert torch.rand(3, device="cuda").isfinite().all()  # the generator is out of the capture too
    assert not torch.cuda.is_current_stream_capturing()
    good = step(made(Plain).cuda(), "graph", attack=PGD(steps=2, random_start=True))
    assert good(*batch(device="cuda"))["loss"].isfinite()


@pytest.mark.gpu
def test_auto_on_a_card_falls_back() -> None:
    said: list[str] = []
    one = step(made(HiddenSync).cuda(), "auto", say=said.append)
    for n in range(2):
        one(*batch(n, device="cuda"))
    assert (one.engine.name, len(said)) == ("eager", 1)
