"""The step by whichever kernels ``FASTISEAT_KERNELS`` names: float32, at a given perturbation, against the oracle."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from devices import DEVICES
from oracles.algorithm1 import Algorithm1
from oracles.compare import CASES, ISEAT_SCALARS, TOLERANCES, build, run_both
from torch import Tensor, nn

from fastiseat import AWP, ISEAT, SGD, TrainStep
from fastiseat.kernels.core import dispatch
from fastiseat.kernels.core.dispatch import Backend
from fastiseat.models import ModelSpec, PreActResNet

BACKENDS = ["auto", "reference", "native", "triton"]
# Of the update's own size; float32 sums over a batch differ by their order.
DEVIATION = 1e-4
STEP_OPS = {"bn_act", "bn_act_backward", "stability_loss", "weight_perturb", "sgd"}


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch) -> str:
    monkeypatch.setenv(dispatch.VARIABLE, request.param)
    return request.param


@pytest.fixture
def served(monkeypatch) -> Counter[tuple[str, str]]:
    """How often each backend served each op in float32; the oracle's own networks are in float64."""
    counts: Counter[tuple[str, str]] = Counter()
    honest = dispatch.Op._fitting

    def counting(self, call) -> Backend | None:
        chosen = honest(self, call)
        if self.first(call).dtype == torch.float32:
            counts[self.name, chosen.name if chosen else "reference"] += 1
        return chosen

    monkeypatch.setattr(dispatch.Op, "_fitting", counting)
    return counts


def narrow() -> nn.Module:
    """Every kind of block and shortcut, and few channels: Triton's interpreter takes its time for each."""
    torch.manual_seed(2)
    spec = ModelSpec(arch="small", variant="released", in_channels=3, num_classes=10)
    return PreActResNet(spec, depths=(2, 1), widths=(4, 6))


def batch(device: str) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(6, 3, 16, 16, generator=generator)
    delta = (2 * torch.rand(x.shape, generator=generator) - 1) * 8 / 255
    return x.to(device), torch.randint(10, (6,), generator=generator).to(device), delta.to(device)


def oracle_step(model: nn.Module, x: Tensor, y: Tensor, delta: Tensor) -> Algorithm1:
    """A step of the oracle in float64 at ``delta``; no attack, whose signs rounding would flip."""
    oracle = Algorithm1(copy.deepcopy(model).double(), **ISEAT_SCALARS)
    x, delta = x.double(), delta.double()

    def given(images: Tensor, labels: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            oracle.model(images)  # the clean pass's trace in the running statistics
        return delta, (images + delta).clamp(0, 1)

    oracle._pgd = given
    oracle.step(x, y)
    return oracle


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_a_float32_step_equals_the_oracle(backend, device, channels_last, served) -> None:
    model = narrow().to(device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    before = {name: w.detach().double().clone() for name, w in model.named_parameters()}
    x, y, delta = batch(device)
    oracle = oracle_step(model, x, y, delta)
    scalars = ISEAT_SCALARS
    step = TrainStep(
        model, method=ISEAT(lam=scalars["lam"]), awp=AWP(gamma=scalars["gamma"]), optimizer=SGD(lr=scalars["lr"])
    )
    step(x, y, delta=delta)
    for name, expected in oracle.model.named_parameters():
        moved = model.get_parameter(name).double() - before[name]
        wanted = expected.detach() - before[name]
        assert (moved - wanted).norm() <= DEVIATION * wanted.norm(), name
    for name, buffer in oracle.model.named_buffers():
        torch.testing.assert_close(model.get_buffer(name).double(), buffer.double(), rtol=1e-5, atol=1e-6)
    if backend in ("native", "triton"):
        assert {op for op, name in served if name == backend} >= STEP_OPS
        assert not {op for op, name in served if name == "reference"} & STEP_OPS


@pytest.mark.parametrize("device", DEVICES)
def test_three_float64_steps_equal_the_oracle(backend, device) -> None:
    """float64 is the reference's under every setting, and no error."""
    assert run_both(build("wrn-10-1").to(device), *CASES["iseat"], m=5) <= TOLERANCES[device]
