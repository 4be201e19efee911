"""The cheaper directions of ν: each is what its name says."""

from __future__ import annotations

import copy

import pytest
import torch
from oracles.algorithm1 import Algorithm1
from oracles.awp_gradient import Approximate
from oracles.compare import largest_difference
from side_by_side import assert_same, batch, everything, recorded, small, step, twins

from fastiseat import AT, AWP, ISEAT, PGD, SGD, TrainStep

KINDS = ["last-attack-step", "half-batch", "previous-step"]
ATTACK = {"eps": 8 / 255, "step_size": 2 / 255, "steps": 3}


def pair(
    kind: str, *, norm: str = "tensor", lam: float = 0.1, bn_mode: str = "train"
) -> tuple[TrainStep, Algorithm1]:
    ours = step(
        small(),
        "eager",
        method=ISEAT(lam=lam),
        attack=PGD(**ATTACK, bn_mode=bn_mode),
        awp=AWP(gamma=0.01, norm=norm, gradient=kind),
        optimizer=SGD(lr=0.05),
    )
    theirs = Approximate(
        small(), gradient=kind, lr=0.05, lam=lam, gamma=0.01, awp_norm=norm, bn_mode=bn_mode, **ATTACK
    )
    return ours, theirs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"norm": "global"}, {"lam": 0.0}, {"bn_mode": "eval"}],
    ids=["usual", "global", "at", "eval-bn"],
)
def test_each_equals_its_transcription(kind: str, settings: dict[str, object]) -> None:
    ours, theirs = pair(kind, **settings)
    for n in range(3):
        ours(*batch(n))
        nu = theirs.step(*batch(n))["nu"]
        assert any(tensor.any() for tensor in nu.values()) == (kind != "previous-step" or n > 0)
    assert largest_difference(ours, theirs) <= 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_no_other_kind(kind: str) -> None:
    exact = step(small(), "eager", attack=PGD(**ATTACK))
    other = pair(kind)[0]
    for n in range(2):
        exact(*batch(n))
        other(*batch(n))
    assert not torch.equal(exact.model.state_dict()["conv1.weight"], other.model.state_dict()["conv1.weight"])


@recorded
@pytest.mark.parametrize("kind", KINDS)
def test_each_can_be_recorded(kind: str, device: str, engine: str) -> None:
    eager, replayed = twins(small(device), engine, awp=AWP(gamma=0.01, gradient=kind))
    for n in range(4):
        for one in (eager, replayed):
            one.set(gamma=0.01 + n / 100)
            one(*batch(n, device=device))
        assert_same(replayed, eager)


@pytest.mark.parametrize("method", [ISEAT(), AT()])
def test_the_previous_steps_gradient_is_that_at_theta_nu_and_is_resumed(method: ISEAT | AT) -> None:
    parts = {"method": method, "awp": AWP(gamma=0.01, gradient="previous-step")}
    straight = step(small(), "eager", **parts)
    assert not any(gradient.any() for gradient in straight.state_dict()["last_gradients"].values())
    straight(*batch(0))
    resumed = step(copy.deepcopy(straight.model), "eager", **parts)
    state = copy.deepcopy(straight.state_dict())
    resumed.load_state_dict(state)
    forgetful = step(copy.deepcopy(straight.model), "eager", **parts)
    forgetful.load_state_dict({name: value for name, value in state.items() if name != "last_gradients"})
    for one in (straight, resumed, forgetful):
        one(*batch(1))
    assert_same(resumed, straight, 0)
    assert not torch.equal(everything(forgetful)["conv1.weight"], everything(straight)["conv1.weight"])
    saved = straight.state_dict()["last_gradients"]
    found = copy.deepcopy(saved)
    straight(*batch(2))
    assert all(torch.equal(gradient, found[name]) for name, gradient in saved.items())  # copies, no views
