"""Counts against counts by hand, and the model of the floor."""

import pytest
import torch
from bench_case import CPU
from torch import nn

from fastiseat import models
from fastiseat.bench.steps import ceiling
from fastiseat.bench.steps.ceiling import Ceiling, Work
from fastiseat.bench.steps.variants import NECESSARY, PassCounts


def test_work_of_a_network_counted_by_hand():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 8 * 8, 5)
    )
    cost = ceiling.work(net, (3, 8, 8))
    assert cost == Work(flops=2 * (3 * 9 * 4 * 64 + 4 * 64 * 5), bn_elements=4 * 64)


@pytest.mark.parametrize(
    ("arch", "side", "gmac"), [("prn18", 32, 0.555), ("prn18", 64, 2.222), ("wrn-34-10", 32, 7.37)]
)
def test_published_networks_cost_what_is_known_of_them(arch, side, gmac):
    net = models.build(arch, in_channels=3, num_classes=10)
    assert ceiling.work(net, (3, side, side)).flops / 2e9 == pytest.approx(gmac, rel=2e-3)


def test_counting_leaves_the_network_alone():
    net = models.build("small", in_channels=1, num_classes=10).eval()
    ceiling.work(net, (1, 8, 8))
    assert not net.training
    assert {weight.device for weight in net.parameters()} == {CPU}
    assert not any(module._forward_hooks for module in net.modules())


def test_floor_is_products_and_then_batchnorm():
    cost, rates = Work(flops=1000, bn_elements=10), Ceiling(flops={"full": 1e6, "bf16": 2e6}, bandwidth=1e3)
    passes = PassCounts(2, 1, 1)
    assert ceiling.floor(cost, passes, 3, rates, "full") == pytest.approx(
        3 * (4 * 1000 / 1e6 + (6 + 5) * 10 * 4 / 1e3)
    )
    assert ceiling.floor(cost, passes, 3, rates, "bf16") == pytest.approx(3 * (4 * 1000 / 2e6 + 110 * 2 / 1e3))


def test_share_of_the_peak_counts_what_the_method_needs():
    cost = Work(flops=100, bn_elements=0)
    assert ceiling.share(cost, NECESSARY["iseat"], 2, seconds=1.0, rate=28 * 100 * 2 * 4) == pytest.approx(0.25)


def test_units_of_the_methods():
    assert {name: passes.units for name, passes in NECESSARY.items()} == {
        "at": 23, "at-awp": 26, "lsi": 25, "iseat": 28,
    }  # fmt: skip


def test_rates_are_measured(monkeypatch):
    monkeypatch.setattr(ceiling, "_SIDES", {"cpu": 64})
    monkeypatch.setattr(ceiling, "_COPIED", {"cpu": 2**16})
    found = ceiling.measure(CPU, ("full", "bf16"), rounds=2, seconds=1e-4)
    assert set(found.flops) == {"full", "bf16"}
    assert all(1e6 < rate < 1e14 for rate in [*found.flops.values(), found.bandwidth])
    assert torch.backends.cudnn.allow_tf32
