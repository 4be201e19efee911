"""What a step must never do, for whatever batch and settings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastiseat import AWP, ISEAT, PGD, SGD, TrainStep, models
from fastiseat.attacks import pgd, random_start
from fastiseat.kernels.stability_loss.reference import rank_weights
from fastiseat.weights import Update, perturbable

seeds = st.integers(0, 2**31 - 1)
sizes = st.floats(0, 0.5, allow_nan=False)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.build("small", in_channels=1, num_classes=10)


def batch(seed: int, m: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(m, 1, 8, 8, generator=generator)
    # Saturated pixels are common in real images and sit on the border of the clamp.
    return torch.where(x < 0.2, 0.0, torch.where(x > 0.8, 1.0, x)), torch.randint(10, (m,), generator=generator)


@given(seed=seeds, eps=sizes, step_size=sizes, steps=st.integers(0, 4), random=st.booleans())
@settings(max_examples=60)
def test_the_attack_stays_in_its_ball_and_in_the_image_range(seed, eps, step_size, steps, random) -> None:
    x, _ = batch(seed)
    generator = torch.Generator().manual_seed(seed)
    start = random_start(x, eps=eps, generator=generator) if random else torch.zeros_like(x)
    adversarial = pgd(
        lambda at: torch.randn(at.shape, generator=generator), x, start, eps=eps, step_size=step_size, steps=steps
    ).x_adv
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    # One rounding of x + δ, whose size is at most 1.
    assert (adversarial.double() - x.double()).abs().max() <= eps + 2**-24


@given(av=st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=200))
def test_weights_are_a_permutation_of_one_down_to_one_mth(av: list[float]) -> None:
    m = len(av)
    weights = rank_weights(torch.tensor(av, dtype=torch.float64))
    expected = [1 - rank / m for rank in range(m)]
    assert sorted(weights.tolist(), reverse=True) == pytest.approx(expected, rel=1e-15)
    # Higher vulnerability, higher weight; equal ones in order of index.
    by_weight = sorted(range(m), key=lambda i: -weights[i].item())
    assert by_weight == sorted(range(m), key=lambda i: (-av[i], i))


@given(seed=seeds, gamma=st.floats(1e-4, 1.0))
def test_each_tensor_is_perturbed_by_gamma_times_its_norm(seed: int, gamma: float) -> None:
    torch.manual_seed(seed)
    weights = dict(network(seed).double().named_parameters())
    gradients = {name: torch.randn_like(w) for name, w in perturbable(weights).items()}
    theta_nu = Update(weights, optimizer=SGD(), awp=AWP()).perturbed(gradients, gamma=gamma, norm="tensor")
    assert theta_nu.keys() == weights.keys()
    for name, weight in weights.items():
        perturbation = theta_nu[name].detach() - weight.detach()
        if name not in gradients:
            assert not perturbation.any()
            continue
        torch.testing.assert_close(perturbation.norm(), gamma * weight.detach().norm(), rtol=1e-10, atol=0)
        cosine = (perturbation * gradients[name]).sum() / perturbation.norm() / gradients[name].norm()
        assert cosine == pytest.approx(1, abs=1e-10)


def test_a_zero_gradient_perturbs_nothing() -> None:
    weights = {"w": nn.Parameter(torch.ones(2, 3))}
    theta_nu = Update(weights, optimizer=SGD(), awp=AWP()).perturbed(
        {"w": torch.zeros(2, 3)}, gamma=0.1, norm="tensor"
    )
    assert torch.equal(theta_nu["w"], weights["w"])


@given(seed=seeds, lam=st.sampled_from([0.0, 0.1]), gamma=st.sampled_from([0.0, 0.01]), random=st.booleans())
@settings(max_examples=15)
def test_without_a_learning_rate_parameters_keep_every_bit(seed, lam, gamma, random) -> None:
    model = network(seed % 100)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    step = TrainStep(
        model,
        method=ISEAT(lam=lam),
        attack=PGD(steps=3, random_start=random),
        awp=AWP(gamma=gamma),
        optimizer=SGD(lr=0.0),
    )
    step(*batch(seed))
    step(*batch(seed + 1))
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name])


class Writes(TorchDispatchMode):
    """Notes each operation that writes where one of the given tensors lies."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self.addresses = {tensor.data_ptr() for tensor in tensors}
        self.log: list[str] = []
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += 1
        for value, schema in zip(args, func._schema.arguments, strict=False):
            written = schema.alias_info is not None and schema.alias_info.is_write
            if written and isinstance(value, Tensor) and self.reaches(value):
                self.log.append(f"{self.operations}:{func}")
        return func(*args, **(kwargs or {}))

    def reaches(self, tensor: Tensor) -> bool:
        """Parameters lie in one buffer: what is written to them is a stretch of it."""
        begin, size = tensor.data_ptr(), tensor.untyped_storage().nbytes()
        return any(begin <= address < begin + size for address in self.addresses)


def test_theta_is_written_once_and_after_everything_else() -> None:
    model = network()
    step = TrainStep(model, awp=AWP(gamma=0.01), attack=PGD(steps=2))
    step(*batch(0))
    with Writes(list(model.parameters())) as writes:
        step(*batch(1))
    assert [entry.split(":", 1)[1] for entry in writes.log] == ["fastiseat.sgd.default"]
    first = int(writes.log[0].split(":")[0])
    convolutions = []

    class Convolutions(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Convolutions.count += 1
            if "convolution" in str(func):
                convolutions.append(Convolutions.count)
            return func(*args, **(kwargs or {}))

    with Convolutions():
        step(*batch(1))
    assert max(convolutions) < first


@pytest.mark.parametrize(("bn_mode", "updates"), [("train", 11), ("eval", 2)])
def test_running_statistics_are_updated_once_a_pass(bn_mode: str, updates: int) -> None:
    model = network()
    TrainStep(model, attack=PGD(bn_mode=bn_mode), awp=AWP(gamma=0.01))(*batch(0))
    counts = {int(b) for name, b in model.named_buffers() if name.endswith("num_batches_tracked")}
    assert counts == {updates}


# λ, γ, BatchNorm in the attack -> passes: forward, input-gradient and weight-gradient
COSTS = [
    (0.0, 0.0, "train", 11, 10 + 1, 1),
    (0.0, 0.01, "train", 12, 10 + 2, 2),
    (0.1, 0.0, "train", 11, 10 + 2, 2),
    (0.1, 0.01, "train", 12, 10 + 3, 3),
    (0.1, 0.01, "eval", 13, 10 + 3, 3),
]


@pytest.mark.parametrize(("lam", "gamma", "bn_mode", "forwards", "inputs", "weights"), COSTS)
def test_nothing_is_computed_twice(lam, gamma, bn_mode, forwards, inputs, weights) -> None:
    """Counted from outside, at the second convolution, whose input needs a gradient in every pass."""
    model = network()
    step = TrainStep(
        model, method=ISEAT(lam=lam), awp=AWP(gamma=gamma), attack=PGD(bn_mode=bn_mode), optimizer=SGD(lr=0.01)
    )
    step(*batch(0))  # the first call tries the network
    shape = model.layer1[0].conv1.weight.shape
    counts = {"forward": 0, "input": 0, "weight": 0}

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func._schema.name
            if name == "aten::convolution" and args[1].shape == shape:
                counts["forward"] += 1
            if name == "aten::convolution_backward" and args[2].shape == shape:
                counts["input"] += args[-1][0]
                counts["weight"] += args[-1][1]
            return func(*args, **(kwargs or {}))

    with Count():
        step(*batch(1))
    per_pass = sum(weight.shape == shape for weight in model.parameters())
    assert {name: n / per_pass for name, n in counts.items()} == {
        "forward": forwards,
        "input": inputs,
        "weight": weights,
    }
