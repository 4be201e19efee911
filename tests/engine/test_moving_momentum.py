"""Learning rate and momentum that move at every step, against PyTorch's SGD under PyTorch's OneCycleLR."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from side_by_side import assert_same, batch, compiles, plain, recorded, step, twins
from torch import Tensor, nn

from fastiseat import AWP, PGD, SGD, Standard, TrainStep, UserError
from fastiseat.config import Config, Schedule
from fastiseat.kernels.core import dispatch
from fastiseat.schedule import moving, scalars_of_step

EPOCHS, STEPS = 3, 4
SGD_OF = {"lr": 0.21, "momentum": 0.9, "weight_decay": 5e-3}
BACKENDS = ["auto", "reference", "native", "triton"]


def by_torch(model: nn.Module, *, nesterov: bool) -> tuple[nn.Module, list[tuple[float, float]]]:
    """A copy of the model after the run, and what its steps had of lr and momentum."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), nesterov=nesterov, **SGD_OF)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.21, pct_start=0.25, epochs=EPOCHS, steps_per_epoch=STEPS
    )
    rates = []
    for number in range(EPOCHS * STEPS):
        x, y = batch(number, dtype=next(model.parameters()).dtype)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        rates.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        if number + 1 < EPOCHS * STEPS:
            scheduler.step()
    return model, rates


def by_us(model: nn.Module, engine: str, *, nesterov: bool) -> tuple[TrainStep, list[tuple[float, float]]]:
    """Likewise, on a copy, as the trainer sets its steps."""
    optimizer = SGD(nesterov=nesterov, **SGD_OF)
    config = Config(optimizer=optimizer, schedule=Schedule(epochs=EPOCHS, lr_shape="onecycle"))
    one = step(copy.deepcopy(model), engine, method=Standard(), awp=AWP(gamma=0), optimizer=optimizer)
    if engine == "compile":
        one._passes.compile("aot_eager")
    rates = []
    for number in range(EPOCHS * STEPS):
        now = scalars_of_step(config, *divmod(number, STEPS), STEPS)
        one.set(**{name: getattr(now, name) for name in moving(config.schedule)})
        rates.append((one.optimizer.lr, one.optimizer.momentum))
        one(*batch(number, dtype=next(model.parameters()).dtype))
    return one, rates


def weights(model: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


@compiles
@pytest.mark.parametrize("engine", ["eager", "tape", "compile"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_a_run_is_pytorchs_in_float64(nesterov: bool, engine: str) -> None:
    """One recording serves it all."""
    (theirs, expected), (mine, rates) = (
        by_torch(plain(), nesterov=nesterov),
        by_us(plain(), engine, nesterov=nesterov),
    )
    assert torch.tensor(rates).sub(torch.tensor(expected)).abs().max() < 1e-12
    torch.testing.assert_close(weights(mine.model), weights(theirs), rtol=1e-10, atol=1e-13)
    if engine == "tape":
        assert len(mine.engine._recorder._recordings) == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("engine", ["eager", "tape"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_a_run_is_pytorchs_by_each_backend(
    nesterov: bool, engine: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(dispatch.VARIABLE, backend)
    model = plain(dtype=torch.float32)
    theirs, _ = by_torch(model, nesterov=nesterov)
    mine, _ = by_us(model, engine, nesterov=nesterov)
    moved, expected = (weights(end) - weights(model) for end in (mine.model, theirs))
    assert (moved - expected).norm() <= 1e-4 * expected.norm()


def test_without_the_cycle_the_end_is_another() -> None:
    theirs, _ = by_torch(plain(), nesterov=True)
    mine = step(plain(), "eager", method=Standard(), awp=AWP(gamma=0), optimizer=SGD(nesterov=True, **SGD_OF))
    config = Config(
        optimizer=SGD(**SGD_OF), schedule=Schedule(epochs=EPOCHS, lr_shape="onecycle", momentum_cycle=None)
    )
    for number in range(EPOCHS * STEPS):
        mine.set(lr=scalars_of_step(config, *divmod(number, STEPS), STEPS).lr)
        mine(*batch(number))
    start = weights(plain())
    apart = (weights(mine.model) - weights(theirs)).norm() / (weights(theirs) - start).norm()
    assert apart > 1e-2


@recorded
def test_momentum_that_is_turned_off_and_on_again(device: str, engine: str) -> None:
    """Off, b stays as it is and is gone on from afterwards, as PyTorch has it; each way is a recording of its own."""
    eager, replayed = twins(plain(device), engine, attack=PGD(steps=1))
    for n, momentum in enumerate([0.9, 0.0, 0.0, 0.5, 0.8]):
        for one in (eager, replayed):
            before = {name: buffer.clone() for name, buffer in one.momentum_buffers.items()}
            one.set(momentum=momentum)
            one(*batch(n, device=device))
            kept = all(buffer.equal(before[name]) for name, buffer in one.momentum_buffers.items() if before)
            assert not before or kept == (momentum == 0)
        assert_same(replayed, eager)
    assert len(replayed.engine._recorder._recordings) == 2


@pytest.mark.parametrize(
    ("numbers", "optimizer", "message"),
    [
        ({"momentum": 1.0}, {}, "momentum=1.0: must lie in 0 … 1, 1 excluded"),
        ({"lr": 0.5, "momentum": 0.0}, {"nesterov": True}, "nesterov=True: looks ahead along the momentum"),
    ],
)
def test_what_no_step_takes_changes_nothing(numbers, optimizer, message) -> None:
    one = step(plain(), "eager", optimizer=SGD(lr=0.05, **optimizer))
    with pytest.raises(UserError, match=message):
        one.set(**numbers)
    assert (one.optimizer.lr, one.optimizer.momentum) == (0.05, 0.9)
