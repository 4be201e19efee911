"""HAT: its formulas, what it asks of the frozen network, and what it leaves of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from counting import CountedPasses
from oracles import hat_and_consistency as oracle
from safetensors.torch import save_file
from side_by_side import Plain, assert_same, batch, delta, plain, recorded, small, step, twins
from torch import Tensor, nn

from fastiseat import AWP, PGD, SGD, TrainStep, UserError, models
from fastiseat.config import Execution, Objective
from fastiseat.methods import HAT, METHODS, TRADES, from_config
from fastiseat.run.trainer import Trainer

EVAL = PGD(steps=3, bn_mode="eval", noise=0.001)
M = 6


def standard(device: str = "cpu", dtype: torch.dtype = torch.float64) -> nn.Module:
    """Another network than the one in training, as a user may leave it: half of it in train mode."""
    torch.manual_seed(8)
    network = Plain().to(device, dtype).eval()
    with torch.no_grad():  # no class ahead of the others, so that its labels change along δ
        network.head.bias -= network(batch(9, 30, device=device, dtype=dtype)[0]).mean(0)
    network.conv.train()
    return network


def hat(device: str = "cpu", **numbers: float) -> HAT:
    return HAT(standard=standard(device), **numbers)


def trained_by(method: HAT, engine: str = "eager", model: nn.Module | None = None, **parts: Any) -> TrainStep:
    usual = {"method": method, "attack": EVAL, "awp": AWP(gamma=0)}
    return step(small() if model is None else model, engine, **(usual | parts))


def test_a_frozen_network_without_an_answer_has_no_label() -> None:
    """Its NaN would pass for class 0; the loss is one, which ends a run."""
    method, (x, y) = hat(), batch(0, M)
    with torch.no_grad():
        method.standard.head.bias[3] = torch.inf  # type: ignore[union-attr, operator]
    metrics = trained_by(method)(x, y)
    assert metrics["loss_helper"].isnan() and metrics["loss"].isnan()


# Each changes network, frozen network and labels (m,), given images.
def random_labels(model: nn.Module, frozen: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return y


def all_correct(model: nn.Module, frozen: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return copy.deepcopy(model).train()(x).argmax(1)


def all_wrong(model: nn.Module, frozen: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (all_correct(model, frozen, x, y) + 1) % 10


def one_class(model: nn.Module, frozen: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return torch.full_like(y, 7)


def ties(model: nn.Module, frozen: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """All of the frozen network's logits are alike, and two of the other's."""
    with torch.no_grad():
        frozen.head.weight.zero_()
        frozen.head.bias.zero_()
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        last.weight[3], last.bias[3] = last.weight[5], last.bias[5]
    return y


@pytest.mark.parametrize("numbers", [{}, {"beta": 6.0, "h": 3.5, "gamma": 1.0}], ids=["defaults", "others"])
@pytest.mark.parametrize("awkward", [random_labels, all_correct, all_wrong, one_class, ties])
def test_loss_gradients_and_statistics_equal_the_formulas(
    awkward: Callable[..., Tensor], numbers: dict[str, float]
) -> None:
    model, method = small(), hat(**numbers)
    (x, y), given = batch(1, M), 8 * delta(1, M)
    with torch.no_grad():
        ours, theirs = (method.standard(images).argmax(1) for images in (x, (x + given).clamp(0, 1)))
    assert (ours != theirs).any() and len(ours.unique()) > 1
    y = awkward(model, method.standard, x, y)
    loss, gradients, after = oracle.hat(
        model, method.standard, x, y, given, beta=method.beta, h=method.h, gamma=method.gamma
    )
    one = trained_by(method, model=model, optimizer=SGD(weight_decay=0), attack=replace(EVAL, eps=0.25))
    metrics = one(x, y, given)
    torch.testing.assert_close(metrics["loss"], loss, rtol=1e-9, atol=0)
    assert gradients.keys() == one.momentum_buffers.keys()
    for name, gradient in gradients.items():  # the first momentum is the gradient
        torch.testing.assert_close(one.momentum_buffers[name], gradient, rtol=1e-9, atol=1e-12, msg=name)
    for name, buffer in after.named_buffers():  # of x, x' and the helper images
        torch.testing.assert_close(one.model.get_buffer(name), buffer, rtol=1e-12, atol=0, msg=name)


def test_its_terms_and_defaults() -> None:
    method = hat()
    assert (method.beta, method.h, method.gamma) == (2.5, 2.0, 0.5)
    metrics = trained_by(method)(*batch(0, M))
    terms = [metrics[f"loss_{name}"] for name in ("stability", "helper")]
    assert metrics["loss_helper"] > 0
    torch.testing.assert_close(metrics["loss"], sum(terms) + metrics["loss_clean"])


@pytest.mark.parametrize(("gamma", "units"), [(0, 30), (0.005, 39)])
@pytest.mark.parametrize("engine", ["eager", "tape"])
def test_what_a_step_costs(engine: str, gamma: float, units: int) -> None:
    for frozen, more in ((standard(), 0), (copy.deepcopy(small()), 2 if gamma else 1)):  # only small is counted
        method = HAT(standard=frozen)
        one = trained_by(method, engine, attack=replace(EVAL, steps=10), awp=AWP(gamma=gamma))
        one(*batch(0, M))
        with CountedPasses(one.model, M) as passes:
            one(*batch(1, M))
        assert passes.units == units + more
    assert gamma or units + more == METHODS["hat"].units


@pytest.mark.parametrize("engine", ["eager", "tape"])
def test_without_helper_images_it_is_trades(engine: str) -> None:
    ours = trained_by(hat(gamma=0.0, beta=6.0), engine)
    trades = trained_by(TRADES(beta=6.0), engine)  # type: ignore[arg-type]
    for n in range(2):
        ours(*batch(n)), trades(*batch(n))
    assert_same(ours, trades, 0)
    with CountedPasses(ours.model, 5) as passes:
        ours(*batch(2))
    assert passes.units == 1 + 2 * 3 + 6


@recorded
@pytest.mark.parametrize("kind", ["exact", "half-batch", "last-attack-step", "previous-step"])
def test_a_recording_equals_eager(kind: str, device: str, engine: str) -> None:
    parts = {"method": hat(device), "attack": EVAL, "awp": AWP(gamma=0.005, gradient=kind)}
    eager, replayed = twins(small(device), engine, **parts)
    for n in range(4):
        for one in (eager, replayed):
            one.set(lr=0.05 / (1 + n))
            one(*batch(n, device=device))
        assert_same(replayed, eager)
    assert len(replayed.engine._recorder._recordings) == 1


@recorded
def test_a_recording_reads_the_frozen_network_in_place_and_sees_another(device: str, engine: str) -> None:
    method = hat(device)
    eager, replayed = twins(small(device), engine, method=method, attack=EVAL, awp=AWP(gamma=0))
    recordings = replayed.engine._recorder._recordings
    for n in range(4):
        if n == 1:
            with torch.no_grad():
                method.standard.head.weight.neg_()
        if n == 2:
            method.standard.head = nn.Linear(4, 10).to(device, torch.float64)
        for one in (eager, replayed):
            one(*batch(n, device=device))
        assert_same(replayed, eager)
        assert len(recordings) == (1 if n < 2 else 2)


@recorded
def test_a_copied_step_has_a_frozen_network_of_its_own(device: str, engine: str) -> None:
    eager, replayed = twins(small(device), engine, method=hat(device), attack=EVAL, awp=AWP(gamma=0))
    for one in (eager, replayed):
        one(*batch(device=device))
    twin = copy.deepcopy(replayed)
    assert twin.method.standard is not replayed.method.standard
    for one in (eager, replayed, twin):
        one(*batch(1, device=device))
        assert_same(one, eager)
    with torch.no_grad():
        twin.method.standard.head.weight.neg_()
    for one in (eager, replayed, twin):
        one(*batch(2, device=device))
    assert_same(replayed, eager)
    with pytest.raises(AssertionError):
        assert_same(twin, eager)


@pytest.mark.parametrize("engine", ["eager", "tape"])
def test_the_frozen_network_is_left_as_it_was(engine: str) -> None:
    method = hat()
    frozen = method.standard
    frozen.conv.weight.requires_grad_(False)
    bits = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    flags = [module.training for module in frozen.modules()]
    wanted = [weight.requires_grad for weight in frozen.parameters()]
    one = trained_by(method, engine, awp=AWP(gamma=0.005))
    for n in range(2):
        one(*batch(n))
    assert all(torch.equal(tensor, bits[name]) for name, tensor in frozen.state_dict().items())
    assert [module.training for module in frozen.modules()] == flags
    assert True in flags and False in flags
    assert [weight.requires_grad for weight in frozen.parameters()] == wanted
    assert all(weight.grad is None for weight in frozen.parameters())


@pytest.mark.parametrize(
    ("precision", "dtype"), [("full", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
@pytest.mark.parametrize("own", [False, True], ids=["any module", "our network"])
def test_it_answers_in_eval_mode_without_gradients_in_the_steps_precision(
    precision: str, dtype: torch.dtype, own: bool
) -> None:
    seen = []
    frozen = small(dtype=torch.float32) if own else plain(dtype=torch.float32)
    first, norm = (frozen.conv1, frozen.layer1[0].bn1) if own else (frozen.conv, frozen.bn)
    first.register_forward_hook(
        lambda module, args, out: seen.append((out.dtype, torch.is_grad_enabled(), norm.training))
    )
    one = trained_by(HAT(standard=frozen.train()), model=small(dtype=torch.float32), precision=precision)
    metrics = one(*batch(dtype=torch.float32))
    assert set(seen) == {(dtype, False, False)}
    assert metrics["loss"].isfinite() and metrics["loss"].dtype == torch.float32


def test_networks_that_do_not_fit_are_refused() -> None:
    model = small()
    with pytest.raises(UserError, match="shares weights with the model in training: pass a copy"):
        trained_by(HAT(standard=model), model=model)
    with pytest.raises(
        UserError, match=r"network is torch\.float32 on cpu, the model torch\.float64 on cpu: convert"
    ):
        trained_by(HAT(standard=standard(dtype=torch.float32)))
    one = trained_by(HAT(standard=small(num_classes=7)))
    with pytest.raises(UserError, match="network has 7 classes, the model 10: pass one of the same data set"):
        one(*batch())


def test_a_config_needs_the_network() -> None:
    with pytest.raises(
        UserError, match=r"method hat: .* --standard names; train one: fastiseat train --method none"
    ):
        from_config(Objective(method="hat", lam=0))
    found = from_config(Objective(method="hat", lam=0, beta=4.0), standard=standard())
    assert isinstance(found, HAT) and found.beta == 4.0
    assert isinstance(from_config(Objective(method="hat", lam=0), standard=standard()), HAT)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights of a short run without defence, on a few digits."""
    tiny.install(monkeypatch, test=20)
    tiny.trainer(tiny.config("none", epochs=6, run={"final_steps": 0}), tmp_path / "none").run()
    return tmp_path / "none" / "weights" / "last.safetensors"


def config(file: Path, **changed: Any) -> Any:
    base = tiny.config("hat", attack={"steps": 3}, **changed)
    return replace(base, objective=replace(base.objective, standard=file))


def test_a_run_learns_and_notes_the_file(file: Path, tmp_path: Path) -> None:
    run = tiny.trainer(config(file, epochs=4, batch_size=25), tmp_path / "run")
    run.run()
    losses = [row["train_loss"] for row in run.rows]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.95 * losses[0]
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["config"]["objective"]["standard"] == str(file)
    before = models.load_model(file).state_dict()
    assert tiny.same_weights(run.step.method.standard.state_dict(), before)
    lengths = [row["lr"] for row in run.rows]
    assert max(lengths) <= 0.21 and lengths[-1] < 1e-4  # one cycle


def stop(epoch: int, number: int) -> None:
    if (epoch, number) == (1, 1):
        raise KeyboardInterrupt


@pytest.mark.parametrize("engine", ["eager", "tape"])
def test_a_run_stopped_within_an_epoch_goes_on_bit_for_bit(file: Path, tmp_path: Path, engine: str) -> None:
    settings = config(file, epochs=2, batch_size=25, run={"final_steps": 0})

    def run(out: str, observer: tiny.Watcher, *, resume: bool = False) -> None:
        Trainer(
            settings,
            tmp_path / out,
            device=tiny.CPU,
            observer=observer,
            resume=resume,
            execution=Execution(engine=engine),
            checkpoint_every="1steps",
        ).run()

    run("whole", tiny.Watcher())
    with pytest.raises(KeyboardInterrupt):
        run("stopped", tiny.Watcher(on_step=stop))
    run("stopped", tiny.Watcher(), resume=True)
    files = [(tmp_path / out / "weights" / "last.safetensors").read_bytes() for out in ("whole", "stopped")]
    assert files[0] == files[1]


def test_a_run_is_not_continued_with_another_network(file: Path, tmp_path: Path) -> None:
    settings = config(file, epochs=1, run={"final_steps": 0})
    tiny.trainer(settings, tmp_path / "run").run()
    file.write_bytes((tmp_path / "run" / "weights" / "last.safetensors").read_bytes())
    with pytest.raises(
        UserError, match=r"trained with another standard network than .* holds now: bring that back"
    ):
        tiny.trainer(settings, tmp_path / "run", resume=True)


def test_files_that_do_not_fit_are_refused_before_anything_is_written(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.safetensors: no such file"):
        tiny.trainer(config(tmp_path / "gone.safetensors"), tmp_path / "run")
    other = models.build("small", in_channels=3, num_classes=10)
    save_file(models.export_state_dict(other), tmp_path / "rgb.safetensors", models.metadata(other.spec))
    with pytest.raises(
        UserError, match=r"standard=.*rgb.* but the data set has 1 colour planes and 10 classes; give"
    ):
        tiny.trainer(config(tmp_path / "rgb.safetensors"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
