"""What a step keeps by name: there from construction, found again where it was, and never lost without a word."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import import_module
from inspect import isabstract
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, get_args, get_type_hints

import pytest
import torch
from side_by_side import assert_same, batch, everything, plain, recorded, step, twins
from torch import Tensor, nn

from fastiseat import AWP, EMA, PGD, SGD, TrainStep, UserError
from fastiseat.config import Optimizer
from fastiseat.config import optimizer as settings
from fastiseat.weights import Update, averages
from fastiseat.weights.averages import Average
from fastiseat.weights.state import State

FAST = {"attack": PGD(steps=1)}
CASES: dict[str, dict[str, Any]] = {
    "sgd": {},
    "without momentum": {"optimizer": SGD(lr=0.05, momentum=0)},
    "previous-step": {"awp": AWP(gamma=0.01, gradient="previous-step")},
    "average": {"average": EMA(decay=0.9)},
    "all": {"awp": AWP(gamma=0.01, gradient="previous-step"), "average": EMA(decay=0.9)},
}
NAMES = {
    "sgd": {"momentum_buffers"},
    "without momentum": {"momentum_buffers"},
    "previous-step": {"momentum_buffers", "last_gradients"},
    "average": {"momentum_buffers", "average"},
    "all": {"momentum_buffers", "last_gradients", "average"},
}
every = pytest.mark.parametrize("case", CASES)


def found_in(package: ModuleType, base: type) -> list[type]:
    """What there is of a kind, as its files have it: an addition is walked through without a line here."""
    paths = getattr(package, "__path__", [])
    modules = [package, *(import_module(f"{package.__name__}.{info.name}") for info in iter_modules(paths))]
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    return sorted((kind for kind in kinds if issubclass(kind, base) and not isabstract(kind)), key=str)


KINDS = {
    f"{owner} {kind.__name__}": {owner: kind()}
    for owner, package, base in (("optimizer", settings, Optimizer), ("average", averages, Average))
    for kind in found_in(package, base)
} | {f"awp {kind}": {"awp": AWP(gradient=kind)} for kind in get_args(get_type_hints(AWP)["gradient"])}
each_there_is = pytest.mark.parametrize("kind", KINDS)


def made(case: str, engine: str = "eager", **parts: Any) -> TrainStep:
    return step(plain(), engine, **(FAST | CASES[case] | parts))


@every
def test_it_is_there_before_the_first_step_and_stays_where_it_is(case: str) -> None:
    one = made(case)
    assert one.state_dict().keys() - {"steps_taken", "loss_scale"} == NAMES[case] == one.state_bytes.keys()
    assert one.momentum_buffers == {}  # as torch.optim.SGD has none before its first step
    before = [tensor.data_ptr() for tensor in one._update.kept.tensors()]
    for n in range(2):
        one(*batch(n))
    assert [tensor.data_ptr() for tensor in one._update.kept.tensors()] == before
    assert len(one.momentum_buffers) == (0 if case == "without momentum" else 6)


def test_the_walk_finds_what_there_is() -> None:
    assert {"optimizer SGD", "average EMA", "awp exact", "awp previous-step"} <= KINDS.keys()


@each_there_is
@recorded
def test_recorded_it_is_eagers(kind: str, device: str, engine: str) -> None:
    eager, replayed = twins(plain(device), engine, **(FAST | KINDS[kind]))
    for n in range(3):
        for one in (eager, replayed):
            one.set(lr=0.01 * (n + 1))
            one(*batch(n, device=device))
        assert_same(replayed, eager)
    assert len(replayed.engine._recorder._recordings) == 1


@each_there_is
@pytest.mark.parametrize("engine", ["eager", "tape"])
def test_resumed_it_is_unbroken(kind: str, engine: str) -> None:
    straight = step(plain(), engine, **(FAST | KINDS[kind]))
    for n in range(2):
        straight(*batch(n))
    state = copy.deepcopy(straight.state_dict())
    resumed = step(plain(), engine, **(FAST | KINDS[kind]))
    resumed.model.load_state_dict(straight.model.state_dict())
    resumed.load_state_dict(state)
    assert_same(resumed, straight, 0)
    for n in (2, 3):
        for one in (straight, resumed):
            one(*batch(n))
    assert_same(resumed, straight, 0)


@every
def test_its_own_state_changes_nothing(case: str) -> None:
    """The tensors of a state dict are the step's own memory, from which they are copied."""
    one = made(case)
    one(*batch(0))
    before = everything(one)
    one.load_state_dict(one.state_dict())
    after = everything(one)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_what_a_state_lacks_begins_anew() -> None:
    one, fresh = made("all"), made("all")
    one(*batch(0))
    fresh.model.load_state_dict(one.model.state_dict())
    anew = {"momentum_buffers": {}, "last_gradients": {}, "average": {}}
    for each in (one, fresh):
        each.load_state_dict(each.state_dict() | anew | {"steps_taken": 0})
    assert not one.momentum_buffers
    assert_same(one, fresh, 0)
    assert all(torch.equal(one.averaged[name], weight) for name, weight in one.model.named_parameters())


def other_head(model: nn.Module) -> None:
    model.head = nn.Linear(4, 10, bias=False).double()


def frozen(model: nn.Module) -> None:
    model.bn.requires_grad_(False)


def in_half_the_bits(model: nn.Module) -> None:
    model.float()


@pytest.mark.parametrize("change", [other_head, frozen, in_half_the_bits])
def test_what_has_the_same_name_and_shape_is_kept(change: Callable[[nn.Module], None]) -> None:
    one = made("all")
    one(*batch(0))
    before = everything(one)
    change(one.model)
    dtype = next(one.model.parameters()).dtype
    one._update.refresh({name: w for name, w in one.model.named_parameters() if w.requires_grad})
    for kind, found in one.state_dict().items():
        for name, tensor in found.items() if kind in NAMES["all"] else ():
            assert torch.equal(tensor, before[f"{kind}.{name}"].to(dtype)), (kind, name)
    one(*batch(1, dtype=dtype))


class Clashing(Average):
    """Keeps something of the optimizer's name."""

    def init(self, weights: Tensor) -> State:
        return {"momentum_buffers": weights.clone()}

    def update(self, state: State, at: Any) -> None:
        raise AssertionError

    def read(self, state: State) -> Tensor:
        raise AssertionError


def test_two_of_one_name_are_refused() -> None:
    weights = dict(plain().named_parameters())
    with pytest.raises(
        UserError, match="state momentum_buffers: two parts of the step keep something of this name"
    ):
        Update(weights, optimizer=SGD(), awp=AWP(), average=Clashing())


ones = torch.ones(10, dtype=torch.float64)
WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another's": (lambda state: state.update(exp_avg={"head.bias": ones}), "state has 'exp_avg', which this step"),
    "missing": (lambda state: state.pop("average"), "state has no average: .* or {} to begin it anew"),
    "no momentum": (lambda state: state.pop("momentum_buffers"), "state has no momentum_buffers"),
    "no mapping": (lambda state: state.update(average=ones), r"average=tensor\(.*Mapping is needed"),
    "no tensor": (lambda state: state["average"].update({"head.bias": 1.0}), r"average\['head.bias'\]=1.0"),
    "whole": (lambda state: state["average"].update({"head.bias": ones.long()}), "must be floating-point numbers"),
    "shape": (lambda state: state["average"].update({"head.bias": ones[1:]}), "average of head.bias does not fit"),
    "name": (lambda state: state["momentum_buffers"].update(x=ones), "momentum of x does not fit the model"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_state_that_does_not_fit_is_refused_whole(case: str) -> None:
    one = made("average")
    one(*batch(0))
    spoil, message = WRONG[case]
    state = copy.deepcopy(one.state_dict())
    spoil(state)
    before = everything(one)
    with pytest.raises(UserError, match=message):
        one.load_state_dict(state | {"steps_taken": 7})
    after = everything(one)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_an_approximations_last_gradients_may_be_left() -> None:
    """A run that goes on with exact perturbations drops them; one that begins with approximate ones has none yet."""
    one, approximate = made("sgd"), made("previous-step")
    approximate(*batch(0))
    one.load_state_dict(approximate.state_dict())
    approximate.load_state_dict(one.state_dict())
    assert not any(gradient.any() for gradient in approximate.state_dict()["last_gradients"].values())
