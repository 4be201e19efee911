"""The baselines do what the oracle does, at the cost that their table states."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from devices import DEVICES, require_precision
from functorch.compile import make_boxed_func
from oracles.algorithm1 import Algorithm1
from pass_units import Units
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

from fastiseat import models
from fastiseat.bench.baselines import BASELINES, EagerBaseline
from fastiseat.bench.baselines.networks import plain

METHODS = {
    "at": {"lam": 0.0, "gamma": 0.0},
    "at-awp": {"lam": 0.0, "gamma": 0.007},
    "lsi": {"lam": 0.1, "gamma": 0.0},
    "iseat": {"lam": 0.1, "gamma": 0.007},
}
SETTINGS = {"eps": 8 / 255, "step_size": 2 / 255, "lr": 0.1}
FLOAT64 = {"amp_dtype": None, "channels_last": False}
COMPILED = [name for name in BASELINES if name.startswith("compile")]
# A compilation takes seconds, and in float64 those of fp16 are the others with a scale.
SHORT = [pytest.param(name, marks=pytest.mark.long if name.endswith("-fp16") else ()) for name in COMPILED]
EAGER = [name for name in BASELINES if name not in COMPILED]


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    """Past a number of recompilations torch would silently run a network uncompiled."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(1)
    return plain(models.build("small", in_channels=3, num_classes=10).to(dtype))


def batch(seed: int, m: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(m, 3, 16, 16, dtype=dtype, generator=generator),
        torch.randint(10, (m,), generator=generator),
    )


def on_device_of(model: nn.Module, tensors: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    device = next(model.parameters()).device
    return tensors[0].to(device), tensors[1].to(device)


def pair(name: str, model: nn.Module, **settings: Any) -> tuple[EagerBaseline, Algorithm1]:
    """The baseline in float64 and the oracle, of equal weights."""
    oracle = Algorithm1(model, **SETTINGS, **{k: v for k, v in settings.items() if k != "backend"})
    return BASELINES[name].build(copy.deepcopy(model), **FLOAT64, **SETTINGS, **settings), oracle


def assert_equal_steps(baseline: EagerBaseline, oracle: Algorithm1, seed: int) -> None:
    """One step of each from where they are; metrics, parameters, buffers and momentum agree to 1e-9."""
    x, y = on_device_of(oracle.model, batch(seed))
    metrics, expected = baseline.step(x, y), oracle.step(x, y)
    for key in metrics:
        torch.testing.assert_close(metrics[key], expected[key], rtol=1e-9, atol=1e-11)
    state = baseline.optimizer.state
    ours = dict(baseline.model.state_dict()) | {
        f"momentum.{name}": state[weight]["momentum_buffer"] for name, weight in baseline.model.named_parameters()
    }
    theirs = oracle.model.state_dict() | {f"momentum.{n}": b for n, b in oracle.momentum_buffers.items()}
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        difference = (ours[key] - value).abs().max()
        assert difference <= 1e-9 * value.abs().max(), key


def counting_backend(units: Units) -> Callable[..., Any]:
    """``aot_eager`` that counts inside its graphs: under a mode that is on outside, torch runs no compiled code."""

    def compile_graph(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with units:
                return graph(*args)

        return make_boxed_func(run)

    return aot_autograd(fw_compiler=compile_graph, bw_compiler=compile_graph)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["eager", "eager-wasteful"])
def test_two_eager_steps_equal_the_oracle(name: str, method: str, device: str) -> None:
    baseline, oracle = pair(name, network().to(device), **METHODS[method])
    for seed in range(2):
        assert_equal_steps(baseline, oracle, seed)
    counts = {int(b) for key, b in baseline.model.named_buffers() if key.endswith("num_batches_tracked")}
    assert counts == {2 * 11}


@pytest.mark.parametrize("name", SHORT)
def test_compiled_steps_equal_the_oracle_at_their_cost(name: str) -> None:
    """One compilation serves all methods: λ and γ change from step to step."""
    units = Units(model := network())
    baseline, oracle = pair(name, model, backend=counting_backend(units))
    for seed, (method, scalars) in enumerate(METHODS.items()):
        for key, value in scalars.items():
            setattr(baseline, key, value)
            setattr(oracle, key, value)
        units.forward = units.input = units.weight = 0
        assert_equal_steps(baseline, oracle, seed)
        assert units.total() == BASELINES[name].units[method]


# What the compiler advises or apologises for on some card says nothing about its results.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("device", "backend"), [("cpu", "aot_eager"), pytest.param("cuda", "inductor", marks=pytest.mark.gpu)]
)
@pytest.mark.parametrize("name", ["compile-naive", "compile-careful"])
def test_compiled_steps_as_they_are_timed_equal_the_oracle(name: str, device: str, backend: str) -> None:
    """With CUDA graphs the first call warms up, the second records and the third replays."""
    baseline, oracle = pair(name, network().to(device), backend=backend, steps=3, **METHODS["iseat"])
    for seed in range(4 if device == "cuda" else 1):
        assert_equal_steps(baseline, oracle, seed)


@pytest.mark.parametrize("name", [name for name in COMPILED if name != "compile-naive-fp16"])
def test_a_compiled_step_in_bf16_and_channels_last_is_close_to_eager(name: str) -> None:
    eager, compiled = change("eager-bf16", "iseat"), change(name, "iseat", backend="aot_eager")
    assert (eager - compiled).norm() < 0.3 * eager.norm()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", EAGER)
def test_units_are_those_of_the_table(name: str, method: str) -> None:
    baseline = BASELINES[name].build(network(torch.float32), **SETTINGS, **METHODS[method])
    with Units(baseline.model) as units:
        baseline.step(*batch(0, dtype=torch.float32))
    assert units.total() == BASELINES[name].units[method]


def change(name: str, method: str, device: str = "cpu", **settings: Any) -> Tensor:
    """The change of all weights in one float32 step of a short attack."""
    model = network(torch.float32).to(device)
    before = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    baseline = BASELINES[name].build(
        model, **{**SETTINGS, "lr": 0.01, "eps": 1e-3, "step_size": 1e-3, "steps": 1} | METHODS[method] | settings
    )
    metrics = baseline.step(*on_device_of(model, batch(3, 16, torch.float32)))
    assert {value.dtype for value in metrics.values()} == {torch.float32}
    return torch.cat([weight.detach().flatten() for weight in model.parameters()]) - before


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "tolerance"), [("eager-bf16", 0.3), ("eager-fp16", 0.15)])
def test_a_half_precision_step_is_close_to_the_full_one(
    name: str, method: str, tolerance: float, device: str
) -> None:
    require_precision(BASELINES[name].precision, device)
    full, half = change("eager-strict", method, device), change(name, method, device)
    error = (half - full).norm() / full.norm()
    # 0 would mean that nothing was in half precision.
    assert 0 < error < tolerance


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["eager-bf16", "eager-fp16"])
def test_half_precision_stays_finite_and_learns(name: str, method: str) -> None:
    model = network(torch.float32)
    baseline = BASELINES[name].build(model, **SETTINGS | {"lr": 0.02}, **METHODS[method], steps=1)
    losses = [float(baseline.step(*batch(0, dtype=torch.float32))["loss_adversarial"]) for _ in range(6)]
    assert losses[-1] < 0.9 * losses[0]
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


@pytest.mark.parametrize("device", DEVICES)
def test_an_overflow_of_fp16_skips_the_update_and_halves_the_scale(device: str) -> None:
    model = network(torch.float32).to(device)
    before = [weight.detach().clone() for weight in model.parameters()]
    baseline = BASELINES["eager-fp16"].build(model, **SETTINGS, steps=1)
    baseline.scaler = torch.amp.GradScaler(device, init_scale=2.0**40)
    baseline.step(*on_device_of(model, batch(0, dtype=torch.float32)))
    assert baseline.scaler.get_scale() == 2.0**39
    assert all(torch.equal(weight, old) for weight, old in zip(model.parameters(), before, strict=True))


def test_an_overflow_in_the_attack_leaves_no_nan_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """One NaN in x' or ν would stay in BatchNorm's running statistics, which no scaler restores."""
    monkeypatch.setattr("fastiseat.bench.baselines.eager.FP16_SCALE", 1e30)
    model = network(torch.float32)
    baseline = BASELINES["eager-fp16"].build(model, **SETTINGS, **METHODS["iseat"], steps=2)
    metrics = baseline.step(*batch(0, dtype=torch.float32))
    assert all(bool(value.isfinite().all()) for value in [*metrics.values(), *model.state_dict().values()])


def test_channels_last_changes_the_layout_and_not_the_step() -> None:
    settings = SETTINGS | METHODS["iseat"] | {"steps": 2}
    plain, nhwc = (EagerBaseline(network(), channels_last=layout, **settings) for layout in (False, True))
    assert nhwc.model.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    x, y = batch(0)
    torch.testing.assert_close(plain.step(x, y), nhwc.step(x, y), rtol=1e-9, atol=1e-11)
