"""Half precision by a shadow of the weights: the numbers of autocast, bit for bit, and nothing left behind."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from devices import DEVICES, require_precision
from oracles.compare import build
from torch import Tensor, nn

from fastiseat import AWP, ISEAT, PGD, SGD, Method, TrainStep, models
from fastiseat.engine import passes
from fastiseat.methods import AT
from fastiseat.models.factory import needs_no_autocast

CASES = {
    "at": (AT(), PGD(steps=2), AWP(gamma=0)),
    "at-awp": (AT(), PGD(steps=2), AWP(gamma=0.01, norm="global")),
    "lsi": (ISEAT(lam=0.5), PGD(steps=2), AWP(gamma=0)),
    "iseat": (ISEAT(lam=0.5), PGD(steps=2), AWP(gamma=0.01)),
    "eval-bn": (ISEAT(lam=0.5), PGD(steps=2, bn_mode="eval"), AWP(gamma=0.01)),
}


def make(case: str, precision: str, *, arch: str = "small", device: str = "cpu") -> TrainStep:
    method, attack, awp = CASES[case]
    model = build(arch, "common" if case == "eval-bn" else "released").float()
    model.to(device=device, memory_format=torch.channels_last)
    return TrainStep(model, method=method, attack=attack, awp=awp, precision=precision)


def batch(seed: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(6, 3, 12, 12, generator=generator), torch.randint(10, (6,), generator=generator)
    return x.to(device, memory_format=torch.channels_last), y.to(device)


def state(step: TrainStep) -> dict[str, Tensor]:
    momentum = {f"momentum.{name}": buffer for name, buffer in step.momentum_buffers.items()}
    return {name: tensor.clone() for name, tensor in (step.model.state_dict() | momentum).items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def by_autocast(monkeypatch: pytest.MonkeyPatch, step: TrainStep) -> None:
    """Casts in every pass: autocast's own cache would add the gradients of two passes at θ in half precision."""

    def autocast(precision: str, device: torch.device) -> torch.autocast:
        found = cast(precision, device)
        return torch.autocast(device.type, found.fast_dtype, enabled=found._enabled, cache_enabled=False)

    cast = passes.autocast
    monkeypatch.setattr(passes, "autocast", autocast)
    monkeypatch.setattr(step._passes, "half", lambda: None)


@pytest.mark.parametrize("arch", ["small", "narrow-prn18"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("case", CASES)
def test_the_steps_are_those_of_autocast(monkeypatch, case: str, precision: str, arch: str) -> None:
    """The same roundings in the same places, so on a CPU, whose sums have one order, the same bits."""
    ours, theirs = (make(case, precision, arch=arch) for _ in range(2))
    by_autocast(monkeypatch, theirs)
    for seed in range(2):
        found, expected = ours(*batch(seed)), theirs(*batch(seed))
        assert_same(found, expected)
        assert_same(state(ours), state(theirs))
    assert ours.state_dict()["loss_scale"] == theirs.state_dict()["loss_scale"]
    assert "shadow" in ours._update.arena._pieces and "shadow" not in theirs._update.arena._pieces
