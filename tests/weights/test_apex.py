"""Apex's optimizer against the own one, by a double of Apex where there is no card; and what is said without it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from oracles.by_tensor import sgd_step, weight_perturbation
from torch import Tensor

from fastiseat import AT, AWP, PGD, SGD, TrainStep, models
from fastiseat.errors import UserError
from fastiseat.weights import Update, apex

DOUBLES = Path(__file__).parents[1] / "support" / "doubles"
SHAPES = {"conv": (5, 3, 3, 3), "linear": (7, 11), "bias": (7,), "scale": (1,)}
STEP = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}


@pytest.fixture
def without_apex(monkeypatch):
    """As where nothing of the name is installed; what a test imports is forgotten after it."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("apex", "amp_C")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(apex, "find_spec", lambda name: None)


@pytest.fixture
def double(monkeypatch):
    """The double, which works on CPUs too."""
    monkeypatch.syspath_prepend(DOUBLES)
    monkeypatch.setattr(apex, "DEVICES", ("cpu",))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("apex", "amp_C")]:
        del sys.modules[name]


def tensors(scale: float = 1.0, dtype: torch.dtype = torch.float32, **layouts) -> dict[str, Tensor]:
    made = {name: scale * torch.randn(shape, dtype=dtype) for name, shape in SHAPES.items()}
    return {name: made[name].contiguous(memory_format=layouts.get(name, torch.contiguous_format)) for name in made}


def perturbable(named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in named.items() if tensor.dim() > 1}


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape
        torch.testing.assert_close(found[name].double(), tensor.double(), rtol=2e-6, atol=2e-7)


def as_float64(named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().double() for name, tensor in named.items()}


@pytest.mark.parametrize("norm", ["tensor", "global"])
@pytest.mark.parametrize("gradient_scale", [1.0, 1e-6, 0.0])
def test_the_perturbation(double, norm, gradient_scale):
    weights, gradients = perturbable(tensors()), perturbable(tensors(gradient_scale))
    gradients = dict(reversed(gradients.items()))  # its order is not that of the weights
    found = apex.Apex(weights).weight_perturbation(weights, gradients, gamma=0.007, norm=norm)
    for dtype_of in (dict, as_float64):
        close(found, weight_perturbation(dtype_of(weights), dtype_of(gradients), gamma=0.007, norm=norm))


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, False), (0.9, True), (0.0, False)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_several_steps(double, momentum, nesterov, layout):
    weights = {name: tensor.requires_grad_() for name, tensor in tensors(conv=layout).items()}
    chosen = apex.Apex(weights)
    own = {name: tensor.detach().clone() for name, tensor in weights.items()}
    exact = as_float64(weights)
    kept: list[dict[str, Tensor]] = [{}, {}, {}]
    for _ in range(4):
        gradients = tensors()
        nu = {name: 0.01 * tensor for name, tensor in perturbable(tensors()).items()}
        for step, named, buffers, to in (
            (chosen.sgd_step, weights, kept[0], dict),
            (sgd_step, own, kept[1], dict),
            (sgd_step, exact, kept[2], as_float64),
        ):
            moved = {name: w + to(nu)[name] if name in nu else w for name, w in named.items()}
            step(named, moved, to(gradients), buffers, **STEP | {"momentum": momentum, "nesterov": nesterov})
    for expected, buffers in ((own, kept[1]), (exact, kept[2])):
        close(weights, expected)
        close(kept[0], buffers)
    assert all(weight.stride() == own[name].stride() and weight.grad is None for name, weight in weights.items())


def test_a_weight_without_a_gradient_is_left_alone_and_joins_later(double):
    weights, own = tensors(), None
    own = {name: tensor.clone() for name, tensor in weights.items()}
    step, mine, theirs = apex.Apex(weights).sgd_step, {}, {}
    for names in (["conv", "bias"], ["conv", "linear"], list(SHAPES)):
        gradients = {name: tensor for name, tensor in tensors().items() if name in names}
        step(weights, weights, gradients, mine, **STEP)
        sgd_step(own, own, gradients, theirs, **STEP)
        close(weights, own)
        close(mine, theirs)


def test_a_loaded_momentum_of_another_layout(double):
    weights = tensors(conv=torch.channels_last)
    own = {name: tensor.clone() for name, tensor in weights.items()}
    loaded, gradients = tensors(), tensors()
    theirs = {name: tensor.clone() for name, tensor in loaded.items()}
    apex.Apex(weights).sgd_step(weights, weights, gradients, loaded, **STEP)
    sgd_step(own, own, gradients, theirs, **STEP)
    close(weights, own)
    close(loaded, theirs)


def test_nothing_of_a_step_is_kept(double):
    weights = tensors()
    chosen = apex.Apex(weights)
    chosen.sgd_step(weights, weights, tensors(), {}, **STEP)
    assert not chosen._sgd.state
    assert chosen._sgd.param_groups[0]["params"] == []


def test_half_precision_is_autocasts(double):
    """It has no shadow of the weights, and a step needs none."""
    model = models.build("small")
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer, attack = SGD(implementation="apex"), PGD(steps=1)
    step = TrainStep(model, attack=attack, awp=AWP(), optimizer=optimizer, precision="bf16")
    assert step(torch.rand(4, 3, 8, 8), torch.arange(4))["loss"].isfinite()
    for name, weight in model.named_parameters():
        assert weight.dtype == torch.float32
        assert not torch.equal(weight, before[name])


@pytest.mark.parametrize("nesterov", [False, True])
def test_learning_rate_and_momentum_that_move(double, nesterov):
    """They are numbers of its host: each step has its own."""
    ends = []
    for implementation in ("own", "apex"):
        torch.manual_seed(1)
        model = models.build("small")
        optimizer = SGD(nesterov=nesterov, implementation=implementation)
        step = TrainStep(model, method=AT(), attack=PGD(steps=1), awp=AWP(), optimizer=optimizer)
        for n, momentum in enumerate([0.95, 0.5, 0.2, 0.8]):
            step.set(lr=0.02 * (n + 1), momentum=momentum)
            torch.manual_seed(n)
            step(torch.rand(4, 3, 8, 8), torch.arange(4), torch.zeros(4, 3, 8, 8))
        ends.append(dict(model.named_parameters()))
    close(ends[1], ends[0])


def test_what_apex_would_pass_over_is_refused(double):
    with pytest.raises(
        UserError, match=r"optimizer=apex: it serves float32, the weights are torch\.float64; or take"
    ):
        Update(tensors(dtype=torch.float64), optimizer=SGD(implementation="apex"), awp=AWP())


def test_a_cpu_is_refused():
    with pytest.raises(UserError, match="it needs a CUDA device, the weights lie on cpu; or take optimizer own"):
        Update(tensors(), optimizer=SGD(implementation="apex"), awp=AWP())


def test_without_it(without_apex):
    with pytest.raises(UserError, match=r"Apex is not installed; build it from source .*, or take optimizer own"):
        apex.modules()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["apex/__init__.py"], "is another package, not NVIDIA's; pip uninstall apex, then build it from source"),
        (["apex/__init__.py", "apex/optimizers/fused_sgd.py"], r"built without its CUDA code \(no amp_C\)"),
    ],
)
def test_what_is_not_nvidias_or_not_whole(without_apex, monkeypatch, tmp_path, files, words):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("raise SystemExit('it was imported')")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(UserError, match=words):
        apex.modules()


def test_one_that_does_not_import(without_apex, monkeypatch, tmp_path):
    (tmp_path / "apex" / "optimizers").mkdir(parents=True)
    for file in ("apex/__init__.py", "apex/optimizers/fused_sgd.py", "amp_C.py"):
        (tmp_path / file).write_text("raise ImportError('libcudart.so.12: cannot open')")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"cannot be imported \(libcudart\.so\.12: cannot open\); build it"):
        apex.modules()


@pytest.mark.gpu
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("norm", ["tensor", "global"])
def test_the_real_one_on_a_card(norm, nesterov):
    pytest.importorskip("amp_C", reason="Apex is not installed")
    weights = {name: tensor.cuda() for name, tensor in tensors(conv=torch.channels_last).items()}
    own, mine, theirs = {name: tensor.clone() for name, tensor in weights.items()}, {}, {}
    chosen = apex.Apex(weights)
    for _ in range(3):
        gradients = {name: tensor.cuda() for name, tensor in tensors().items()}
        for named, buffers, perturb, step in (
            (weights, mine, chosen.weight_perturbation, chosen.sgd_step),
            (own, theirs, weight_perturbation, sgd_step),
        ):
            nu = perturb(perturbable(named), perturbable(gradients), gamma=0.007, norm=norm)
            moved = {name: w + nu[name] if name in nu else w for name, w in named.items()}
            step(named, moved, gradients, buffers, **STEP, nesterov=nesterov)
    close(weights, own)
    close(mine, theirs)
