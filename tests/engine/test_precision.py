"""Half precision: close to full precision, full where it must be, and honest about overflow."""

from __future__ import annotations

import copy

import pytest
import torch
from devices import DEVICES, require_precision
from torch import Tensor, nn

from fastiseat import AWP, ISEAT, SGD, TrainStep, UserError, models
from fastiseat.engine.precision import LossScale, precision_for_amp


def small(device: str = "cpu") -> nn.Module:
    torch.manual_seed(3)
    return models.build("small", in_channels=3, num_classes=5).to(device)


def batch(seed: int = 0, device: str = "cpu") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(16, 3, 8, 8, generator=generator), torch.randint(5, (16,), generator=generator)
    return x.to(device), y.to(device)


def update(precision: str, device: str) -> Tensor:
    """The change of all weights in one ISEAT step from a given perturbation."""
    model, (x, y) = small(device), batch(device=device)
    before = torch.cat([w.detach().flatten().clone() for w in model.parameters()])
    delta = 0.02 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) - 0.01
    TrainStep(model, method=ISEAT(lam=0.1), awp=AWP(), precision=precision)(x, y, delta.to(device))
    return torch.cat([w.detach().flatten() for w in model.parameters()]) - before


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.3), ("fp16", 0.15)])
def test_a_half_precision_update_is_close_to_the_full_one(precision: str, tolerance: float, device: str) -> None:
    require_precision(precision, device)
    full, half = update("full", device), update(precision, device)
    error = (half - full).norm() / full.norm()
    # Plain AT already differs by 15% and 3% here: ReLUs flip. 0 would mean nothing was in half precision.
    assert 0 < error < tolerance


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_what_never_leaves_full_precision(precision: str, device: str) -> None:
    require_precision(precision, device)
    step = TrainStep(small(device), awp=AWP(), precision=precision)
    metrics = step(*batch(device=device))
    nan_gradient = metrics.pop("nan_gradient", None)
    if precision == "fp16":
        assert nan_gradient is None
    else:
        assert not nan_gradient.item()
    assert {value.dtype for value in metrics.values()} == {torch.float32}
    assert {value.dtype for value in step.momentum_buffers.values()} == {torch.float32}
    assert {w.dtype for w in step.model.parameters()} == {torch.float32}
    assert step.model.bn.running_mean.dtype == torch.float32
    with torch.autocast(device, torch.bfloat16):
        logits = step.model(batch(device=device)[0])
    # Rounded to bf16, no logit would have bits below its eighth.
    assert not torch.equal(logits, logits.bfloat16().float())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns(precision: str, device: str) -> None:
    require_precision(precision, device)
    step = TrainStep(small(device), awp=AWP(), optimizer=SGD(lr=0.05), precision=precision)
    losses = [float(step(*batch(device=device))["loss_adversarial"]) for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]


def test_full_precision_shuts_out_a_surrounding_autocast() -> None:
    alone, inside = TrainStep(small()), TrainStep(small())
    alone(*batch())
    with torch.autocast("cpu", torch.bfloat16):
        inside(*batch())
    for ours, theirs in zip(alone.model.parameters(), inside.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


class Overflowing(nn.Module):
    """Its weight gradient overflows fp16 at the first loss scales."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(192, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1) * 200)


@pytest.mark.parametrize("device", DEVICES)
def test_an_overflow_halves_the_scale_and_skips_the_update(device: str) -> None:
    torch.manual_seed(0)
    model = Overflowing().to(device)
    step = TrainStep(model, awp=AWP(), precision="fp16")
    before, first = copy.deepcopy(model.state_dict()), step.state_dict()["loss_scale"]["scale"]
    step(*batch(device=device))
    assert step.state_dict()["loss_scale"]["scale"] == first / 2
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())
    for _ in range(12):
        step(*batch(device=device))
    assert step.state_dict()["loss_scale"]["scale"] < first / 2
    assert not torch.equal(model.layer.weight, before["layer.weight"])
    assert all(weight.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("device", DEVICES)
def test_an_overflow_in_the_weight_perturbation_spares_the_running_statistics(device: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Overflowing(), nn.BatchNorm1d(5)).to(device)
    step = TrainStep(model, awp=AWP(gamma=0.1), precision="fp16")
    for _ in range(5):
        step(*batch(device=device))
    assert model[1].running_mean.isfinite().all()


def test_the_scale_grows_after_good_steps_and_continues() -> None:
    scale, weight = LossScale(enabled=True), [torch.ones(2)]
    first = scale.state_dict()["scale"]
    for _ in range(1999):
        assert not scale.skip(weight)
    resumed = LossScale(enabled=True)
    resumed.load_state_dict(scale.state_dict())
    assert resumed.state_dict() == {"scale": first, "good_steps": 1999}
    assert not resumed.skip(weight)
    assert resumed.state_dict() == {"scale": 2 * first, "good_steps": 0}
    assert resumed.skip([torch.tensor([1.0, float("inf")])])
    assert resumed.state_dict() == {"scale": first, "good_steps": 0}


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match="unknown precision 'bf8'; did you mean bf16"):
        TrainStep(small(), precision="bf8")


def test_amp_picks_what_the_device_is_good_at(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    for native, expected in ((True, "bf16"), (False, "full")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert precision_for_amp(cpu) == expected
    for capability, expected in (((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert precision_for_amp(gpu) == expected
