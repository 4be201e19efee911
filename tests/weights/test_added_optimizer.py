"""The page how to add an optimizer, word for word: its code, outside of the package, is trained, taped and resumed."""

from __future__ import annotations

import copy
import io
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from side_by_side import assert_same, batch, everything, plain, recorded, step, twins

from fastiseat import AWP, EMA, ISEAT, PGD, SGD, Standard, UserError
from fastiseat.checkpoint.fileformat import encode, unpickle

PAGE = Path(__file__).parents[2] / "docs" / "add-an-optimizer.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
FILES = {"added_optimizer": BLOCKS[0], "added_average": BLOCKS[2]}
STATE = {"exp_avg", "exp_avg_sq", "step"}


@pytest.fixture(autouse=True)
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield
    for name in FILES:
        sys.modules.pop(name, None)


def adamw(**numbers: Any) -> Any:
    from added_optimizer import AdamW

    return AdamW(**({"lr": 0.01, "weight_decay": 0.1} | numbers))


def mean() -> Any:
    from added_average import Mean

    return Mean()


def parts(**others: Any) -> dict[str, Any]:
    return {"optimizer": adamw(), "average": mean(), "attack": PGD(steps=1), **others}


def test_the_page_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(BLOCKS[1], {})
    told = capsys.readouterr().out
    assert all(f"'{name}': " in told for name in (*STATE, "average"))
    state = torch.load(tmp_path / "state.pt", weights_only=True)["step"]
    assert state.keys() == {*STATE, "average", "steps_taken", "loss_scale"}


def test_it_is_torch_optims() -> None:
    """In float64, without a weight perturbation."""
    one = step(plain(), "eager", method=Standard(), awp=AWP(gamma=0), optimizer=adamw())
    model = plain().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for n in range(5):
        x, y = batch(n)
        one(x, y)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    for name, weight in model.named_parameters():
        # The bias before BatchNorm has gradients of rounding alone, which Adam makes steps of the size of others.
        torch.testing.assert_close(one.weights[name], weight, rtol=0, atol=1e-8 if name == "conv.bias" else 1e-12)


def test_it_steps_at_theta_nu_by_both_gradients() -> None:
    """The first step of ISEAT: its gradient is what SGD's momentum begins with, its decay that of θ+ν."""
    gamma, lr, decay = 0.3, 0.01, 0.5
    usual = {"method": ISEAT(lam=0.5), "awp": AWP(gamma=gamma)}
    sgd = step(plain(), "eager", optimizer=SGD(weight_decay=0), **usual)
    without, ours = (step(plain(), "eager", optimizer=adamw(lr=lr, weight_decay=d), **usual) for d in (0.0, decay))
    for one in (sgd, without, ours):
        one(*batch(0))
    for name, weight in plain().named_parameters():
        gradient = sgd.momentum_buffers[name]
        torch.testing.assert_close(ours.state_dict()["exp_avg"][name], 0.1 * gradient, rtol=1e-9, atol=1e-15)
        theta_nu = (without.weights[name] - ours.weights[name]).detach() / (lr * decay)
        moved, expected = (theta_nu - weight.detach()).norm(), gamma * weight.detach().norm() * (weight.dim() > 1)
        torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-9)


@recorded
@pytest.mark.parametrize("average", [mean, lambda: EMA(decay=0.9)])
def test_recorded_it_is_eagers(average: Any, device: str, engine: str) -> None:
    eager, replayed = twins(plain(device), engine, **parts(average=average()))
    for n in range(4):
        for one in (eager, replayed):
            one.set(lr=0.02 / (n + 1))
            one(*batch(n, device=device))
        assert_same(replayed, eager)
    assert len(replayed.engine._recorder._recordings) == 1
    assert replayed.state_dict()["step"].item() == 4


@pytest.mark.parametrize("engine", ["eager", "tape"])
def test_resumed_it_is_unbroken(engine: str) -> None:
    """Through a checkpoint's file, and by copies."""
    straight = step(plain(), engine, **parts())
    for n in range(2):
        straight(*batch(n))
    _, payload = encode(straight.state_dict(), step=2)
    resumed = step(copy.deepcopy(straight.model), engine, **parts())
    resumed.load_state_dict(unpickle(io.BytesIO(payload)))
    copies = [copy.deepcopy(straight), pickle.loads(pickle.dumps(straight))]
    for n in (2, 3):
        for one in (straight, resumed, *copies):
            one(*batch(n))
    for one in (resumed, *copies):
        assert_same(one, straight, 0)
    assert torch.equal(straight.averaged["head.bias"], resumed.averaged["head.bias"])


def test_the_average_is_its_formula() -> None:
    one = step(plain(), "eager", **parts())
    seen = []
    for n in range(3):
        one(*batch(n))
        seen.append(one.weights["head.weight"].detach().clone())
    torch.testing.assert_close(one.averaged["head.weight"], torch.stack(seen).mean(0), rtol=1e-12, atol=1e-15)


def test_its_memory_is_told() -> None:
    one = step(plain(), "eager", **parts())
    size = len(one._update.arena.weights) * 8
    assert one.state_bytes == {"exp_avg": size, "exp_avg_sq": size, "step": 8, "mean": size, "count": 8}


def test_an_overflow_in_fp16_changes_nothing() -> None:
    one = step(plain(dtype=torch.float32), "eager", precision="fp16", **parts())
    one.load_state_dict(one.state_dict() | {"loss_scale": {"scale": 2.0**120, "good_steps": 0}})
    before = everything(one)
    one(*batch(0, dtype=torch.float32))
    after = everything(one)
    for name in before:
        if name.split(".")[0] in (*STATE, "mean", "count") or name in one.weights:
            assert torch.equal(before[name], after[name]), name
    assert after["scale"] < before["scale"]


zero = torch.zeros((), dtype=torch.float64)
WRONG = {
    "sgd's": (
        {"momentum_buffers": {"head.bias": torch.ones(10)}},
        "state has 'momentum_buffers', which this step",
    ),
    "negative count": ({"step": zero - 1}, r"step=a value beyond them: must lie in 0 …"),
    "shape": ({"step": zero.expand(2)}, "must be of shape"),
    "whole": ({"step": zero.long()}, "must be floating-point numbers"),
    "negative square": (
        {"exp_avg_sq": {"head.bias": -torch.ones(10)}},
        r"exp_avg_sq\['head.bias'\]=.*must lie in 0",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_state_that_is_not_its_own_is_refused(case: str) -> None:
    one = step(plain(), "eager", **parts())
    changed, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        one.load_state_dict(one.state_dict() | changed)


@pytest.mark.parametrize("name", ["exp_avg", "step"])
def test_what_is_missing_is_told(name: str) -> None:
    one = step(plain(), "eager", **parts())
    state = one.state_dict()
    del state[name]
    with pytest.raises(UserError, match=f"state has no {name}: what TrainStep.state_dict"):
        one.load_state_dict(state)


def test_a_number_that_it_lacks_is_refused_by_its_name() -> None:
    with pytest.raises(UserError, match=r"momentum=0.5: optimizer AdamW has no momentum"):
        step(plain(), "eager", **parts()).set(momentum=0.5)
