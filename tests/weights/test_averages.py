"""Averages: in the optimizer's sweep and beside it the same bits, recorded as eager, and never the module's own."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from side_by_side import assert_same, batch, plain, recorded, step, twins
from torch import Tensor, nn

from fastiseat import EMA, PGD, SGD, UserError
from fastiseat.kernels.core import dispatch
from fastiseat.weights.optimizers.sgd import FusedSGD

FLOAT = {"dtype": torch.float32}
FAST: dict[str, Any] = {"attack": PGD(steps=1), "average": EMA(decay=0.75)}


def test_it_is_its_formula() -> None:
    one = step(plain(), "eager", **FAST)
    expected = {name: weight.detach().clone() for name, weight in one.model.named_parameters()}
    assert all(torch.equal(one.averaged[name], weight) for name, weight in expected.items())
    for n in range(4):
        one(*batch(n))
        for name, weight in one.model.named_parameters():
            expected[name] = 0.75 * expected[name] + 0.25 * weight.detach()
    assert one.averaged.keys() == expected.keys()
    for name, average in one.averaged.items():
        torch.testing.assert_close(average, expected[name], rtol=1e-14, atol=1e-15)
        assert not torch.equal(average, one.model.get_parameter(name))


@recorded
@pytest.mark.parametrize("fused", [True, False])
def test_recorded_it_is_eagers(fused: bool, device: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fused:
        monkeypatch.setattr(FusedSGD, "averages", ())
    eager, replayed = twins(plain(device), engine, **FAST)
    for n in range(4):
        for one in (eager, replayed):
            one.set(lr=0.1 / (n + 1))
            one(*batch(n, device=device))
        assert_same(replayed, eager)
    assert len(replayed.engine._recorder._recordings) == 1


class Idle(nn.Module):
    """A part of it has a gradient in some of the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle, self.uses = plain(**FLOAT), nn.Linear(10, 10), False

    def forward(self, x: Tensor) -> Tensor:
        return self.idle(self.used(x)) if self.uses else self.used(x)


SCALES = {1: 2.0**120, 2: 2.0**10}
"""Set before a step in fp16: by the first its gradients overflow."""


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("precision", ["full", "fp16"])
def test_in_the_sweep_and_beside_it_are_the_same_bits(
    precision: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights without a gradient and steps that overflow leave it alone by both ways."""
    monkeypatch.setenv(dispatch.VARIABLE, backend)
    torch.manual_seed(1)
    model = Idle()
    fused, beside = (step(copy.deepcopy(model), "eager", precision=precision, **FAST) for _ in range(2))
    seen = []
    for n in range(4):
        for one, ways in ((fused, (EMA,)), (beside, ())):
            monkeypatch.setattr(FusedSGD, "averages", ways)
            one.model.uses = n in (0, 2)
            if precision == "fp16" and n in SCALES:
                one.load_state_dict(one.state_dict() | {"loss_scale": {"scale": SCALES[n], "good_steps": 0}})
            one(*batch(n, **FLOAT))
        assert_same(beside, fused, 0)
        seen.append({name: average.clone() for name, average in fused.averaged.items()})
    stays = [torch.equal(before["idle.weight"], after["idle.weight"]) for before, after in pairwise(seen)]
    assert stays == [True, False, True]
    moves = [
        not torch.equal(before["used.head.weight"], after["used.head.weight"]) for before, after in pairwise(seen)
    ]
    assert moves == [precision == "full", True, True]


def test_a_module_takes_it() -> None:
    one = step(plain(), "eager", **FAST)
    for n in range(2):
        one(*batch(n))
    averaged, trained = copy.deepcopy(one.model), copy.deepcopy(one.model.state_dict())
    averaged.load_state_dict(one.averaged, strict=False)
    for name, weight in averaged.named_parameters():
        assert torch.equal(weight, one.averaged[name])
    assert all(torch.equal(tensor, trained[name]) for name, tensor in one.model.state_dict().items())
    assert torch.equal(averaged.bn.running_mean, one.model.bn.running_mean)


def test_training_is_the_same_with_and_without() -> None:
    with_average, without = step(plain(), "eager", **FAST), step(plain(), "eager", attack=PGD(steps=1))
    for n in range(3):
        with_average(*batch(n))
        without(*batch(n))
    for name, tensor in without.model.state_dict().items():
        assert torch.equal(with_average.model.state_dict()[name], tensor)


def test_a_copy_goes_on_with_it() -> None:
    one = step(plain(), "eager", **FAST)
    one(*batch(0))
    twin = copy.deepcopy(one)
    assert twin.average == one.average
    for each in (one, twin):
        each(*batch(1))
    assert_same(twin, one, 0)


def test_its_memory_is_told() -> None:
    one = step(plain(), "eager", optimizer=SGD(), **FAST)
    size = len(one._update.arena.weights) * 8
    assert one.state_bytes == {"momentum_buffers": size, "average": size}


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match=r"averaged: this step keeps no average; give it one"):
        _ = step(plain(), "eager").averaged
    with pytest.raises(UserError, match=r"decay=1.0: must lie in 0 … 1, 1 excluded"):
        EMA(decay=1.0)
    with pytest.raises(UserError, match=r"average=0.9: .*Average or None is needed"):
        step(plain(), "eager", average=0.9)
