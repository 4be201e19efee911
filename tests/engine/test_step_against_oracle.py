"""The engine against the literal transcription of Algorithm 1, in float64 over three steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from devices import DEVICES
from oracles.compare import CASES, TOLERANCES, batches, build, run_both
from torch import nn

from fastiseat import AT, AWP, ISEAT, TrainStep
from fastiseat.models import VARIANTS


def agree(record, model: nn.Module, plan: list[dict[str, float]], settings: dict[str, Any], m: int) -> None:
    difference = run_both(model, plan, settings, m)
    record("oracle_difference", difference)
    assert difference <= TOLERANCES[next(model.parameters()).device.type]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("network", ["narrow-prn18", "wrn-10-1"])
@pytest.mark.parametrize("device", DEVICES)
def test_three_steps_equal_the_oracle(network: str, device: str, case: str, record_property) -> None:
    agree(record_property, build(network).to(device), *CASES[case], m=5)


@pytest.mark.parametrize("network", ["narrow-prn18", "wrn-10-1"])
@pytest.mark.parametrize("device", DEVICES)
def test_the_common_variants_equal_the_oracle(network: str, device: str, record_property) -> None:
    agree(record_property, build(network, "common").to(device), *CASES["iseat"], m=4)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in ("released", "common")])
@pytest.mark.parametrize("device", DEVICES)
def test_the_networks_of_other_papers_equal_the_oracle(variant: str, device: str, record_property) -> None:
    agree(record_property, build("small", variant).to(device), *CASES["iseat"], m=4)


@pytest.mark.parametrize("network", [pytest.param("prn18", marks=pytest.mark.long), "wrn-16-2", "small"])
@pytest.mark.parametrize("device", DEVICES)
def test_networks_of_full_size_equal_the_oracle(network: str, device: str, record_property) -> None:
    agree(record_property, build(network).to(device), *CASES["iseat"], m=4)


@pytest.mark.parametrize("m", [2, 3, 9])
@pytest.mark.parametrize("network", ["narrow-prn18", "wrn-10-1"])
@pytest.mark.parametrize("device", DEVICES)
def test_odd_batch_sizes_equal_the_oracle(network: str, device: str, m: int, record_property) -> None:
    agree(record_property, build(network).to(device), *CASES["iseat"], m=m)


def test_at_is_iseat_without_its_terms() -> None:
    model, (x, y, _) = build("small"), batches(5)[0]
    at = TrainStep(copy.deepcopy(model), method=AT())
    iseat = TrainStep(copy.deepcopy(model), method=ISEAT(lam=0.0), awp=AWP(gamma=0))
    at(x, y), iseat(x, y)
    for ours, theirs in zip(at.model.state_dict().values(), iseat.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
