"""``TrainStep`` on modules and loops that are not ours."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from devices import DEVICES, random_state
from oracles.compare import ISEAT_SCALARS, TOLERANCE, largest_difference, pair
from torch import Tensor, nn

from fastiseat import AT, AWP, ISEAT, PGD, SGD, Standard, TrainStep, UserError, models
from fastiseat.engine.passes import InputGradient
from fastiseat.fusion.fuse import Fused


class Tied(nn.Module):
    """One weight used by two layers, a frozen stem, a view and a bias that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.head = nn.Linear(64, 5)
        self.unused = nn.Parameter(torch.ones(3, 2))
        self.stem.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.bn(self.stem(x)))
        x = F.avg_pool2d(x, 2).view(len(x), -1)
        return self.head(F.silu(self.second(F.silu(self.first(x)))))


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.head = nn.Linear(192, 32), nn.Dropout(0.5), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.first(x.flatten(1)))))


class Residual(nn.Module):
    """A pre-activation block as people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv(F.relu(self.bn1(x)))
        return self.head(F.relu(self.bn2(x), inplace=True).mean((2, 3)))


def batch(seed: int = 0, m: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(m, 3, 8, 8, dtype=dtype, generator=generator), torch.randint(5, (m,), generator=generator)


def small(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(3)
    return models.build("small", in_channels=3, num_classes=5).to(dtype)


def state(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("norm", ["tensor", "global"])
def test_tied_frozen_and_unused_parameters_equal_the_oracle(norm: str) -> None:
    step, oracle = pair(Tied().double(), ISEAT_SCALARS, {"norm": norm})
    frozen = state(step.model.stem)
    for seed in range(3):
        step(*batch(seed))
        oracle.step(*batch(seed))
    assert largest_difference(step, oracle) <= TOLERANCE
    assert step.model.second.weight is step.model.first.weight
    assert same(frozen, state(step.model.stem))
    assert torch.equal(step.model.unused, torch.ones(3, 2, dtype=torch.float64))


def test_a_module_that_can_be_fused_is_and_equals_the_oracle() -> None:
    step, oracle = pair(Residual().double(), ISEAT_SCALARS, {})
    for seed in range(3):
        step(*batch(seed))
        oracle.step(*batch(seed))
    assert isinstance(step._passes._network, Fused)
    assert largest_difference(step, oracle) <= TOLERANCE


@pytest.mark.parametrize("device", DEVICES)
def test_dropout_is_on_repeatable_and_leaves_the_global_numbers_alone(device: str) -> None:
    torch.manual_seed(5)
    models_ = [Dropping().to(device) for _ in range(3)]
    for model in models_[1:]:
        model.load_state_dict(models_[0].state_dict())
    for seed, model in zip((1, 1, 2), models_, strict=True):
        step = TrainStep(model, seed=seed, attack=PGD(random_start=True))
        for number in range(2):
            x, y = batch(number, dtype=torch.float32)
            step(x.to(device), y.to(device))
        torch.rand(3, device=device)  # what a user draws between steps must not matter
    first, again, other = (model.state_dict() for model in models_)
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize("device", DEVICES)
def test_random_state_and_modes_are_left_as_found(device: str) -> None:
    model, (x, y) = small().to(device), batch()
    model.eval()
    model.layer1.train()
    modes, random = [module.training for module in model.modules()], [random_state("cpu"), random_state(device)]
    with torch.no_grad():  # nor does the caller's gradient mode matter
        TrainStep(model, attack=PGD(random_start=True, bn_mode="eval"))(x.to(device), y.to(device))
    assert [module.training for module in model.modules()] == modes
    assert all(map(torch.equal, [random_state("cpu"), random_state(device)], random))
    assert all(weight.grad is None for weight in model.parameters())


def test_modes_are_restored_after_an_error() -> None:
    model = small().eval()
    step = TrainStep(model)
    with pytest.raises(UserError, match="label 5 is out of range: the model has 5 classes"):
        step(batch()[0], torch.full((6,), 5))
    assert not any(module.training for module in model.modules())


def test_a_refused_batch_leaves_no_trace() -> None:
    model = small()
    before, step = state(model), TrainStep(model)
    for bad in (torch.full((6,), 7), torch.full((6,), -1)):
        with pytest.raises(UserError, match="out of range"):
            step(batch()[0], bad)
    assert same(before, state(model))
    assert not step.momentum_buffers
    assert step.steps_taken == 0


def test_a_ready_perturbation_replaces_the_attack() -> None:
    x, y = batch()
    step, oracle = pair(small(), ISEAT_SCALARS, {})
    expected = oracle.step(x, y)  # its own attack
    step(x, y, expected["delta"])
    assert int(step.model.bn.num_batches_tracked) == 2  # the clean pass and the final one
    for name, weight in oracle.model.named_parameters():
        torch.testing.assert_close(step.weights[name], weight, rtol=1e-9, atol=1e-12)


def test_bytes_and_floats_train_alike() -> None:
    pixels = torch.randint(256, (6, 8, 8, 3), dtype=torch.uint8)
    labels = torch.randint(5, (6,))
    as_bytes, as_floats = TrainStep(small()), TrainStep(small())
    as_bytes(pixels, labels)
    as_floats(pixels.permute(0, 3, 1, 2).contiguous().double() / 255, labels)
    assert same(state(as_bytes.model), state(as_floats.model))


def test_a_continued_step_equals_an_unbroken_one() -> None:
    unbroken, first = TrainStep(small(), awp=AWP()), TrainStep(small(), awp=AWP())
    unbroken(*batch(0)), unbroken(*batch(1)), first(*batch(0))
    second = TrainStep(copy.deepcopy(first.model), awp=AWP())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second(*batch(1))
    assert same(state(unbroken.model), state(second.model))


def test_metrics_are_what_they_say() -> None:
    x, y = batch()
    model = small()
    with torch.no_grad():
        clean_losses = F.cross_entropy(copy.deepcopy(model).train()(x), y, reduction="none")
    metrics = TrainStep(model, method=ISEAT(lam=0.5))(x, y)
    total = metrics["loss_adversarial"] + metrics["loss_stability"]
    torch.testing.assert_close(metrics["loss"], total)
    torch.testing.assert_close(metrics["loss_clean"], clean_losses.mean())
    torch.testing.assert_close(metrics["av"].mean(), metrics["loss_adversarial"] - metrics["loss_clean"])
    assert not any(value.requires_grad for value in metrics.values())
    assert not metrics["nan_gradient"]


@pytest.mark.parametrize("method", [AT(), ISEAT(lam=0.5)])
@pytest.mark.parametrize("bn_mode", ["train", "eval"])
def test_nan_in_a_gradient_of_the_attack_is_told(method, bn_mode, monkeypatch) -> None:
    honest, calls = InputGradient.__call__, []

    def poisoned(self, x):  # type: ignore[no-untyped-def]
        calls.append(x)
        return honest(self, x) * (torch.nan if len(calls) == 2 else 1)

    monkeypatch.setattr(InputGradient, "__call__", poisoned)
    step, (x, y) = TrainStep(small(), method=method, attack=PGD(steps=3, bn_mode=bn_mode)), batch()
    found = [step(x, y)["nan_gradient"] for _ in range(2)]
    assert [(flag.dtype, flag.shape, flag.item()) for flag in found] == [
        (torch.bool, (), True),
        (torch.bool, (), False),
    ]
    assert "nan_gradient" not in step(x, y, torch.zeros_like(x)), "a finished perturbation is no attack"


def test_without_an_attack_no_metric_is_called_adversarial() -> None:
    metrics = TrainStep(small(), method=Standard())(*batch())
    assert set(metrics) == {"loss", "loss_clean", "accuracy_clean"}


def test_scalars_change_between_calls_all_or_none() -> None:
    step = TrainStep(small(), method=ISEAT(lam=0.1), awp=AWP(gamma=0.01))
    step.set(lr=0.5, eps=0.1, step_size=0.02, lam=0.0, gamma=0.0)
    assert (step.optimizer.lr, step.attack.eps, step.attack.step_size) == (0.5, 0.1, 0.02)
    assert (step.method, step.awp.gamma) == (ISEAT(lam=0.0), 0.0)
    for wrong, message in (
        ({"eps": -1.0}, "eps=-1.0: must be at least 0"),
        ({"gamma": float("nan")}, "gamma=nan"),
        ({"stepsize": 1.0}, "did you mean step_size"),
    ):
        with pytest.raises(UserError, match=message):
            step.set(lr=9.0, **wrong)
        assert step.optimizer.lr == 0.5
    with pytest.raises(UserError, match="method AT has no lam"):
        TrainStep(small(), method=AT()).set(lam=0.1)


def test_standard_training_is_torch_optim_sgd() -> None:
    ours, theirs = small(), small()
    step = TrainStep(ours, method=Standard(), optimizer=SGD(lr=0.1, weight_decay=0.01))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for seed in range(3):
        x, y = batch(seed)
        step(x, y)
        optimizer.zero_grad()
        F.cross_entropy(theirs(x), y).backward()
        optimizer.step()
    for name, weight in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], weight, rtol=1e-12, atol=1e-14)


def test_networks_without_a_matrix_take_awp() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(5))

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :5] * self.scale

    TrainStep(Scale(), awp=AWP())(*batch(dtype=torch.float32))


REFUSED = {
    "nothing to train": (lambda: small().requires_grad_(False), "no trainable parameter"),
    "half precision": (lambda: small().half(), "float16: master weights are float32 or float64"),
    "two dtypes": (lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), "several dtypes"),
    "lazy": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(5)), "no shape yet"),
    "no module": (lambda: torch.relu, "torch.nn.Module is needed"),
    "wrapped": (lambda: nn.DataParallel(small()), "pass its .module"),
    "compiled": (lambda: torch.compile(small()), "compiled already"),
    "script": (lambda: torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), "TorchScript"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_what_it_cannot_take_is_refused_with_the_reason(case: str) -> None:
    build, reason = REFUSED[case]
    with pytest.raises(UserError, match=reason):
        TrainStep(build())


x, y = batch()
BAD_BATCHES = {
    "image rank": ((x[0], y), "NCHW"),
    "image dtype": ((x.float(), y), "images are torch.float32, the model torch.float64"),
    "normalised": ((x * 2 - 1, y), "pixel values lie in 0 … 1"),
    "NaN": ((x * float("nan"), y), "images reach from nan to nan"),
    "label shape": ((x, y[:3]), r"int64 of shape \(6,\) is needed"),
    "label dtype": ((x, y.double()), "labels are torch.float64"),
    "delta shape": ((x, y, x[:2]), "delta has shape"),
}


@pytest.mark.parametrize("case", BAD_BATCHES)
def test_a_bad_batch_is_refused_with_the_reason(case: str) -> None:
    arguments, reason = BAD_BATCHES[case]
    with pytest.raises(UserError, match=reason):
        TrainStep(small())(*arguments)


def test_delta_and_start_exclude_each_other() -> None:
    with pytest.raises(UserError, match="exclude each other"):
        TrainStep(small())(x, y, x * 0, start=x * 0)


def test_a_network_that_returns_no_logits_is_refused() -> None:
    with pytest.raises(UserError, match=r"returned \(6, 5, 1, 1\)"):
        TrainStep(nn.Conv2d(3, 5, 8).double())(x, y)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(UserError, match="unknown engine 'grahp'; did you mean graph"):
        TrainStep(small(), engine="grahp")


def to_and_fro(model: nn.Module) -> None:
    model.to(torch.float32).to(torch.float64)


def new_data(model: nn.Module) -> None:
    for weight in model.parameters():
        weight.data = weight.data.clone()


def assigned(model: nn.Module) -> None:
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)


def gradients_dropped(model: nn.Module) -> None:
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    model.zero_grad()


@pytest.mark.parametrize("meddle", [to_and_fro, new_data, assigned, gradients_dropped, copy.deepcopy])
def test_what_a_caller_does_to_parameters_between_steps_is_survived(meddle) -> None:
    """Values in float32 throughout, so that the way through it changes none."""
    models_ = [models.build("small", in_channels=1).double() for _ in range(2)]
    for model in models_:
        model.load_state_dict({name: value.float() for name, value in models_[0].state_dict().items()})
    x, y = torch.rand(4, 1, 8, 8, dtype=torch.float64), torch.arange(4)
    steps = [TrainStep(model, awp=AWP(gamma=0.01), attack=PGD(steps=2)) for model in models_]
    for step in steps:
        step(x, y)
        # Rounded, so that both go on from the same.
        step.model.load_state_dict({name: value.float() for name, value in step.model.state_dict().items()})
    meddle(models_[0])
    for step in steps:
        step(x, y)
    for ours, theirs in zip(*(model.state_dict().values() for model in models_), strict=True):
        assert torch.equal(ours, theirs)


def test_a_copy_made_in_mid_training_is_left_alone() -> None:
    model = models.build("small", in_channels=1)
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    step = TrainStep(model, attack=PGD(steps=1))
    step(x, y)
    twin = copy.deepcopy(model)
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    step(x, y)
    assert all(torch.equal(value, before[name]) for name, value in twin.state_dict().items())
    assert not torch.equal(model.conv1.weight, twin.conv1.weight)
