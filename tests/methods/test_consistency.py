"""Consistency: its formulas, the two views of an image, and what a step makes of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from counting import CountedPasses
from devices import DEVICES
from oracles import hat_and_consistency as oracle
from side_by_side import assert_same, batch, delta, recorded, small, step, twins
from torch import Tensor, nn

from fastiseat import AWP, PGD, SGD, TrainStep, UserError
from fastiseat.engine.algorithm1 import StepInputs
from fastiseat.kernels.core import dispatch
from fastiseat.methods import Consistency
from fastiseat.methods.consistency import js_divergence
from fastiseat.pipelines.protocol.augmentation import Augmentation
from fastiseat.recipes import METHODS, recipe
from fastiseat.run.trainer import Trainer

ATTACK = PGD(steps=3, bn_mode="eval", random_start=True)
CROPS = Augmentation(seed=4, flip=True, pad=2)
M = 6


def data(device: str = "cpu", n: int = 30) -> tuple[Tensor, Tensor]:
    """A data set in memory: uint8 images (n, 12, 12, 3) and labels."""
    generator = torch.Generator().manual_seed(11)
    images = torch.randint(256, (n, 12, 12, 3), dtype=torch.uint8, generator=generator)
    return images.to(device), torch.randint(10, (n,), generator=generator).to(device)


def places(n: int = 0, device: str = "cpu", m: int = M) -> Tensor:
    return torch.randperm(30, generator=torch.Generator().manual_seed(n))[:m].to(device)


def by(engine: str = "eager", model: nn.Module | None = None, **parts: Any) -> TrainStep:
    usual = {"method": Consistency(), "attack": ATTACK, "awp": AWP(gamma=0), "augmentation": CROPS}
    return step(small() if model is None else model, engine, **(usual | parts))


def run(one: TrainStep, n: int, *given: Tensor) -> dict[str, Tensor]:
    (images, labels), here = data(), places(n)
    return one(images[here], labels[here], *given, index=here)


def random_labels(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return y


def all_correct(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return copy.deepcopy(model).train()(x).argmax(1)


def all_wrong(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (all_correct(model, x, y) + 1) % 10


def one_class(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return torch.full_like(y, 7)


def ties(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        last.weight[3], last.bias[3] = last.weight[5], last.bias[5]
    return y


@pytest.mark.parametrize("numbers", [{}, {"weight": 3.0, "temperature": 2.0}], ids=["defaults", "others"])
@pytest.mark.parametrize("awkward", [random_labels, all_correct, all_wrong, one_class, ties])
def test_loss_gradients_and_statistics_equal_the_formulas(
    awkward: Callable[..., Tensor], numbers: dict[str, float]
) -> None:
    model, method, here, given = small(), Consistency(**numbers), places(1), delta(1, 2 * M)
    images = data()[0][here]
    views = [replace(CROPS, view=view)(images, here, dtype=torch.float64) for view in (0, 1)]
    y = awkward(model, views[0], data()[1][here])
    numbers = {"weight": method.weight, "temperature": method.temperature}
    loss, gradients, after = oracle.consistency(model, views, y, given, **numbers)
    one = by(model=model, method=method, optimizer=SGD(weight_decay=0))
    metrics = one(images, y, given, index=here)
    torch.testing.assert_close(metrics["loss"], loss, rtol=1e-9, atol=0)
    assert gradients.keys() == one.momentum_buffers.keys()
    for name, gradient in gradients.items():  # the first momentum is the gradient
        torch.testing.assert_close(one.momentum_buffers[name], gradient, rtol=1e-9, atol=1e-12, msg=name)
    for name, buffer in after.named_buffers():  # of the attacked images alone
        torch.testing.assert_close(one.model.get_buffer(name), buffer, rtol=1e-12, atol=0, msg=name)


def test_the_attack_leaves_running_statistics_alone() -> None:
    one = by()
    run(one, 0)
    counts = {int(b) for name, b in one.model.named_buffers() if name.endswith("num_batches_tracked")}
    assert counts == {1}


def test_predictions_that_agree_diverge_by_nothing() -> None:
    z = torch.tensor([[1000.0, -1000.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value = js_divergence(z, z.detach())
    (gradient,) = torch.autograd.grad(value, z)
    assert value == 0 and not gradient.any()
    apart = js_divergence(z[:1], -z[:1])  # the largest that there is
    torch.testing.assert_close(apart, torch.tensor(2.0, dtype=torch.float64).log())


KINDS = {"exact": 52, "half-batch": 49, "last-attack-step": 48, "previous-step": 46}


@pytest.mark.parametrize("engine", ["eager", "tape"])
@pytest.mark.parametrize("kind", [None, *KINDS])
def test_what_a_step_costs(engine: str, kind: str | None) -> None:
    awp = AWP(gamma=0) if kind is None else AWP(gamma=0.005, gradient=kind)
    one = by(engine, attack=replace(ATTACK, steps=10), awp=awp)
    run(one, 0)
    with CountedPasses(one.model, M) as passes:
        run(one, 1)
    assert passes.units == (METHODS["consistency"].units if kind is None else KINDS[kind])


@recorded
@pytest.mark.parametrize("policy", [None, "cifar10-weak"])
@pytest.mark.parametrize("kind", ["exact", "half-batch"])
def test_a_recording_equals_eager(kind: str, policy: str | None, device: str, engine: str) -> None:
    augmentation = CROPS if policy is None else Augmentation(seed=4, policy=policy)
    parts = {"method": Consistency(), "attack": replace(ATTACK, steps=1), "augmentation": augmentation}
    eager, replayed = twins(small(device), engine, **parts, awp=AWP(gamma=0.005, gradient=kind))
    images, labels = data(device)
    for n in range(4):
        here = places(n, device)
        for one in (eager, replayed):
            one.set(epoch=n // 2)
            metrics = one(images, labels, index=here, rows=here)
        assert_same(replayed, eager)
        assert 0 <= metrics["accuracy_adversarial"] <= 1
    assert len(replayed.engine._recorder._recordings) == 1


def test_a_batch_is_all_of_the_first_view_then_all_of_the_second() -> None:
    (images, labels), here, one = data(), places(3), by()
    seen: list[Tensor] = []
    one.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    one(images, labels, torch.zeros(2 * M, 3, 12, 12, dtype=torch.float64), index=here, rows=here)
    plain = CROPS(images[here], here, dtype=torch.float64)
    other = replace(CROPS, view=1)(images[here], here, dtype=torch.float64)
    for x in seen:
        assert torch.equal(x, torch.cat([plain, other]))
    x, y = one._algorithm.batch(one.settings, StepInputs(images, labels, index=here, rows=here))
    assert torch.equal(x, seen[-1]) and torch.equal(y, labels[here].repeat(2))


BACKENDS = ["", "reference", "native", "triton"]
POLICIES = [
    Augmentation(seed=2, epoch=7),
    Augmentation(seed=2, epoch=7, flip=True, pad=3),
    Augmentation(seed=2, epoch=7, pad=3, pad_mode="reflect"),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("augmentation", [*POLICIES, Augmentation(seed=2, epoch=7, policy="svhn")])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_view_is_the_plain_one_and_the_second_another(
    backend: str, augmentation: Augmentation, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(dispatch.VARIABLE, "" if augmentation.policy else backend)  # idbh has but one
    (images, _), index = data(device, n=12), torch.arange(12, device=device)
    expected = augmentation(images, index)
    first, second = (replace(augmentation, view=view)(images, index) for view in (0, 1))
    assert torch.equal(first, expected)
    augments = augmentation.flip or augmentation.pad or augmentation.policy
    different = (first != second).flatten(1).any(1).float().mean()
    assert different > 0.4 if augments else different == 0
    assert torch.equal(second, replace(augmentation, epoch=7 + 2**31)(images, index))
    for on_device in (torch.tensor(7, device=device), torch.tensor(7 + 2**32, device=device)):
        again = replace(augmentation, epoch=on_device, view=1)(images, index)
        assert torch.equal(again, second)


def test_the_second_view_of_the_last_epochs_is_drawn_too() -> None:
    (images, _), index = data(), torch.arange(30)
    late = replace(CROPS, epoch=2**32 - 1, view=1)(images, index)
    assert torch.equal(late, replace(CROPS, epoch=2**31 - 1)(images, index))


def test_what_it_cannot_see_twice_is_refused() -> None:
    (images, labels), here, one = data(), places(), by()
    with pytest.raises(
        UserError, match="images without index: the method sees 2 augmentations of each; pass uint8"
    ):
        one(*batch(0, M))
    for name in ("delta", "start"):
        with pytest.raises(
            UserError, match=rf"{name} has shape \(6, 3, 12, 12\): that of the images, \(12, 3, 12"
        ):
            one(images[here], labels[here], index=here, **{name: delta(0, M)})
    with pytest.raises(UserError, match="view=2: an image has two views, 0 and 1"):
        Augmentation(view=2)
    assert one.steps_taken == 0
    run(one, 0, delta(0, 2 * M))


def test_its_settings() -> None:
    method = Consistency()
    assert (method.weight, method.temperature, method.views) == (1.0, 0.5, 2)
    attack = recipe("cifar10", "consistency").attack
    assert (attack.random_start, attack.bn_mode, attack.steps) == (True, "eval", 10)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Any:
    tiny.install(monkeypatch, train=200, test=20)
    weak = {"eps": 0.05, "step_size": 0.02, "steps": 3}
    return tiny.config("consistency", epochs=4, batch_size=25, attack=weak, run={"final_steps": 0})


def test_a_run_learns(settings: Any, tmp_path: Path) -> None:
    trained = tiny.trainer(settings, tmp_path / "run")
    trained.run()
    losses = [row["train_loss"] for row in trained.rows]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.95 * losses[0]


def stop(epoch: int, number: int) -> None:
    if (epoch, number) == (1, 1):
        raise KeyboardInterrupt


def test_a_run_stopped_within_an_epoch_goes_on_bit_for_bit(settings: Any, tmp_path: Path) -> None:
    def train(out: str, observer: tiny.Watcher, *, resume: bool = False) -> None:
        short = replace(settings, schedule=replace(settings.schedule, epochs=2))
        Trainer(
            short,
            tmp_path / out,
            device=tiny.CPU,
            observer=observer,
            resume=resume,
            checkpoint_every="1steps",
        ).run()

    train("whole", tiny.Watcher())
    with pytest.raises(KeyboardInterrupt):
        train("stopped", tiny.Watcher(on_step=stop))
    resumed = tiny.Watcher()
    train("stopped", resumed, resume=True)
    assert resumed.steps[0][:2] in {(1, 1), (1, 2)}
    files = [(tmp_path / out / "weights" / "last.safetensors").read_bytes() for out in ("whole", "stopped")]
    assert files[0] == files[1]
