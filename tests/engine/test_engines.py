"""Every engine does what eager does: settings that change, data, precisions, backends."""

from __future__ import annotations

import pytest
import torch
from devices import require_precision
from oracles.compare import CASES, build
from side_by_side import (
    RECORDED,
    STEPS,
    assert_same,
    assert_same_metrics,
    batch,
    compiles,
    delta,
    parts_of,
    plain,
    recorded,
    small,
    step,
    twins,
)
from torch import Tensor, nn

from fastiseat import AT, AWP, PGD, Standard
from fastiseat.kernels.core import dispatch
from fastiseat.pipelines.protocol.augmentation import Augmentation

# Each differs from the one before in every number.
PLAN = [
    {
        "lr": 0.05 / (1 + n),
        "momentum": 0.9 - n / 10,
        "eps": (4 + n) / 255,
        "step_size": (1 + n / 2) / 255,
        "lam": 0.1 + n,
        "gamma": 0.01 + n / 500,
    }
    for n in range(STEPS)
]


@recorded
@pytest.mark.parametrize("case", CASES)
def test_a_recording_equals_eager(case: str, device: str, engine: str) -> None:
    plan, parts = parts_of(case)
    eager, replayed = twins(small(device), engine, **parts)
    for n, numbers in enumerate(plan):
        for one in (eager, replayed):
            one.set(**numbers)
        expected, found = (one(*batch(n, device=device)) for one in (eager, replayed))
        assert_same_metrics(found, expected, 0 if device == "cpu" else 1e-9)
        assert_same(replayed, eager)


@recorded
@pytest.mark.parametrize("arch", ["wrn-10-1", "narrow-prn18"])
def test_numbers_and_batches_change_at_every_step(arch: str, device: str, engine: str) -> None:
    eager, replayed = twins(build(arch).to(device), engine, attack=PGD(steps=2))
    for n, numbers in enumerate(PLAN):
        for one in (eager, replayed):
            one.set(**numbers)
            one(*batch(n, device=device))
        assert_same(replayed, eager)
    assert len(replayed.engine._recorder._recordings) == 1


def resident(device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    images = torch.randint(256, (30, 12, 12, 3), dtype=torch.uint8, generator=generator)
    return images.to(device), torch.randint(10, (30,), generator=generator).to(device)


@recorded
@pytest.mark.parametrize("policy", [None, "cifar10-weak"])
def test_samples_of_a_resident_data_set_are_augmented_anew(policy: str | None, device: str, engine: str) -> None:
    images, labels = resident(device)
    usual = {"flip": True, "pad": 2} if policy is None else {"policy": policy}
    eager, replayed = twins(
        small(device), engine, augmentation=Augmentation(seed=4, **usual), attack=PGD(steps=1, random_start=True)
    )
    for n in range(STEPS):
        places = torch.randperm(30, generator=torch.Generator().manual_seed(n))[:6].to(device)
        for one in (eager, replayed):
            one.set(epoch=n // 2)
            one(images, labels, index=places, rows=places)
        assert_same(replayed, eager)
        images[0] += 1  # it is read in place
    assert len(replayed.engine._recorder._recordings) == 1


@recorded
def test_a_loaders_batch_is_augmented_by_its_index(device: str, engine: str) -> None:
    images, labels = resident(device)
    eager, replayed = twins(small(device), engine, augmentation=Augmentation(flip=True, pad=1), method=AT())
    for n in range(3):
        places = torch.arange(n, n + 6, device=device)
        for one in (eager, replayed):
            one.set(epoch=n)
            one(images[places], labels[places], index=places)
        assert_same(replayed, eager)


@recorded
def test_a_given_delta_and_a_given_start(device: str, engine: str) -> None:
    eager, replayed = twins(small(device), engine)
    for n, how in enumerate(["delta", "start", "delta", "start"]):
        for one in (eager, replayed):
            one(*batch(n, device=device), **{how: delta(n, device=device)})
        assert_same(replayed, eager)


@recorded
def test_training_without_an_attack(device: str, engine: str) -> None:
    eager, replayed = twins(small(device), engine, method=Standard(), awp=AWP(gamma=0))
    for n in range(3):
        assert_same_metrics(
            replayed(*batch(n, device=device)), eager(*batch(n, device=device)), 0 if device == "cpu" else 1e-9
        )
    assert_same(replayed, eager)


ENGINES = [*RECORDED, ("cpu", "compile"), pytest.param("cuda", "compile", marks=pytest.mark.gpu)]


def flat(model: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten().clone() for weight in model.parameters()])


def moved(engine: str, device: str, precision: str = "full") -> Tensor:
    """The change of all weights in the second of two float32 steps at given perturbations."""
    kind = {"device": device, "dtype": torch.float32}
    one = step(plain(**kind), engine, precision=precision)
    if engine == "compile" and device == "cpu":
        one._passes.compile("aot_eager")
    one(*batch(0, **kind), delta(0, **kind))
    before = flat(one.model)
    one(*batch(1, **kind), delta(1, **kind))
    return flat(one.model) - before


@compiles
@pytest.mark.parametrize(("device", "engine"), ENGINES)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_float32_step(backend: str, device: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dispatch.VARIABLE, backend)
    expected = moved("eager", device)
    assert (moved(engine, device) - expected).norm() <= 1e-5 * expected.norm()


@compiles
@pytest.mark.parametrize(("device", "engine"), ENGINES)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_as_close_to_full_as_eagers(precision: str, device: str, engine: str) -> None:
    require_precision(precision, device)
    full, eager = moved("eager", device), moved("eager", device, precision)
    assert 0 < (moved(engine, device, precision) - full).norm() <= 1.5 * (eager - full).norm()
