"""Half precision by a shadow of the weights: the numbers of autocast, bit for bit, and nothing left behind."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping

import pytest
import torch
from devices import DEVICES, require_precision
from oracles.compare import build
from torch import Tensor, nn

from fastiseat import AT, AWP, ISEAT, PGD, TrainStep, models
from fastiseat.engine import passes
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


def test_an_overflow_skips_the_step(monkeypatch) -> None:
    """Loss scale and skipped updates are those of autocast; ν is 0 where its gradient overflowed."""
    ours, theirs = (make("iseat", "fp16") for _ in range(2))
    by_autocast(monkeypatch, theirs)
    for step in (ours, theirs):
        step._loss_scale.load_state_dict({"scale": 2.0**20, "good_steps": 0})
    before, scales = dict(ours.model.named_parameters()), []
    before = {name: weight.detach().clone() for name, weight in before.items()}
    for seed in range(6):
        ours(*batch(seed)), theirs(*batch(seed))
        assert_same(state(ours), state(theirs))
        scales.append(ours.state_dict()["loss_scale"]["scale"])
        if scales == [2.0**19]:
            assert_same({name: weight.detach() for name, weight in ours.model.named_parameters()}, before)
    assert scales[0] == 2.0**19
    assert scales[-1] == scales[-2] == theirs.state_dict()["loss_scale"]["scale"]


@pytest.mark.parametrize("device", DEVICES)
def test_passes_read_the_shadow_and_leave_the_weights_alone(monkeypatch, device: str) -> None:
    require_precision("bf16", device)
    step, seen = make("iseat", "bf16", device=device), []
    before = {name: weight.detach().clone() for name, weight in step.model.named_parameters()}
    kind = type(step.model)
    forward = kind.forward

    def spy(network: nn.Module, images: Tensor) -> Tensor:
        seen.append((dict(network.named_parameters()), images.dtype))
        assert not torch.is_autocast_enabled(device)
        return forward(network, images)

    monkeypatch.setattr(kind, "forward", spy)
    monkeypatch.setattr(step._update, "descend", lambda *_, **__: None)
    step.num_classes = 10  # it need not try the network first, before there is a shadow
    step(*batch(0, device))
    assert len(seen) == 2 + 1 + 1
    for weights, dtype in seen[:-1]:
        assert dtype == torch.bfloat16
        for name, weight in weights.items():
            kept = name in step._passes.full_precision
            assert torch.equal(weight, before[name] if kept else before[name].bfloat16())
            assert weight.data_ptr() != dict(step.model.named_parameters())[name].data_ptr() or kept
    assert any(not torch.equal(weight, seen[0][0][name]) for name, weight in seen[-1][0].items())
    assert_same({name: weight.detach() for name, weight in step.model.named_parameters()}, before)
    assert all(weight.grad is None and weight.dtype == torch.float32 for weight in step.model.parameters())


def test_no_graph_outlives_its_step() -> None:
    """A graph holds its leaves: where none of them lives, none of it does."""
    step, leaves = make("lsi", "bf16"), []
    theta = step._update.theta

    def spy() -> Mapping[str, Tensor]:
        found = theta()
        leaves.extend(weakref.ref(leaf) for leaf in found.values())
        return found

    step._update.theta = spy
    metrics = step(*batch(0))
    assert len(leaves) == 2 * len(step.weights)
    assert not any(leaf() is not None for leaf in leaves)
    assert not any(value.requires_grad for value in metrics.values())


def test_weights_that_are_replaced_between_steps_are_those_of_the_next() -> None:
    """Values, memory, and the number of classes, with which the arena lays out anew."""
    ours, other = make("iseat", "bf16"), make("iseat", "bf16")
    ours(*batch(0))
    other(*batch(0))
    with torch.no_grad():
        for weight in ours.model.parameters():
            weight.data = weight.data.clone() * 1.5
        for weight in other.model.parameters():
            weight.mul_(1.5)
    assert_same(ours(*batch(1)), other(*batch(1)))
    assert_same(state(ours), state(other))
    torch.manual_seed(0)
    ours.model.linear = nn.Linear(64, 12)
    ours.num_classes = None
    ours(*batch(2))
    twin = TrainStep(
        copy.deepcopy(ours.model), method=ours.method, attack=ours.attack, awp=ours.awp, precision="bf16"
    )
    twin.load_state_dict(copy.deepcopy(ours.state_dict()))
    assert_same(ours(*batch(3)), twin(*batch(3)))
    assert_same(state(ours), state(twin))
    assert ours._update.arena.views("shadow")["linear.weight"].shape == (12, 64)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_resumed_step_goes_on_alike(precision: str) -> None:
    first, resumed = make("iseat", precision), make("at", precision)
    first(*batch(0))
    resumed.settings = first.settings
    resumed.model.load_state_dict(first.model.state_dict())
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    copied = copy.deepcopy(first)
    found = [step(*batch(1)) for step in (first, resumed, copied)]
    for step, metrics in zip((resumed, copied), found[1:], strict=True):
        assert_same(metrics, found[0])
        assert_same(state(step), state(first))


def hooked(model: nn.Module) -> None:
    model.conv1.register_forward_hook(lambda *_: None)


def frozen(model: nn.Module) -> None:
    model.layer1.requires_grad_(False)


def foreign(model: nn.Module) -> None:
    model.layer1 = nn.Sequential(Doubled(), *model.layer1)


def deeper(model: nn.Module) -> None:
    """Of parts that are ours; but its BatchNorms are others than at first."""
    model.layer1.append(copy.deepcopy(model.layer1[0]))


def double(model: nn.Module) -> None:
    model.double()


class Doubled(nn.Module):
    """Works under autocast alone: it multiplies by float32."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.eye(16))

    def forward(self, addends: tuple[Tensor, None]) -> tuple[Tensor, None]:
        return torch.einsum("nchw,cd->ndhw", addends[0], self.map), None


@pytest.mark.parametrize("change", [hooked, frozen, foreign, deeper, double])
@pytest.mark.parametrize("before", [True, False])
def test_what_relies_on_autocast_has_it(change, before: bool) -> None:
    model = models.build("small")
    if before:
        change(model)
    step = TrainStep(model, awp=AWP(), attack=PGD(steps=1), precision="bf16")
    if not before:
        step(*batch(0))
        change(model)
    x, y = batch(1)
    x = x.to(model.linear.weight.dtype)
    assert (step._passes.half() is None) == (change is not deeper or not before)
    assert step(x, y)["loss"].isfinite()
    assert {weight.dtype for weight in model.parameters()} == {x.dtype}


def test_which_networks_need_no_autocast() -> None:
    assert all(needs_no_autocast(models.build(arch)) for arch in ("small", "prn18", "wrn-10-1"))
    assert not needs_no_autocast(nn.Sequential(models.build("small")))
