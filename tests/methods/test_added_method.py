"""The page how to add a method, word for word: its code outside of the package, trained, resumed, taped, counted."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from signal import SIGTERM

import pytest
import tiny
import torch
from counting import CountedPasses
from side_by_side import assert_same, assert_same_metrics, batch, delta, small, step, twins

from fastiseat import AT, AWP, PGD, methods
from fastiseat.recipes import METHODS, check, recipe
from fastiseat.report import live
from fastiseat.run.signals import Stopped

PAGE = Path(__file__).parents[2] / "docs" / "add-a-method.md"


@pytest.fixture(scope="module")
def blocks():
    """The page's code, in its order: the file, the entry, its use."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(autouse=True)
def added(blocks, tmp_path, monkeypatch):
    (tmp_path / "added_method.py").write_text(blocks[0], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(live, "draw_curves", lambda path: None)
    tiny.install(monkeypatch)
    exec(blocks[1], {})
    yield
    del METHODS["mine"]
    sys.modules.pop("added_method", None)


def mine(**options):
    return methods.from_config(replace(recipe("digits", "mine").objective, **options))


def config(**changed):
    return tiny.config("mine", epochs=2, batch_size=25, run={"final_steps": 0}, **changed)


def test_the_entry_is_all_that_a_recipe_needs():
    assert check(recipe("cifar10", "mine")).awp.gamma == 0
    assert mine() == sys.modules["added_method"].Mine(beta=0.5)
    assert mine(beta=2.0).beta == 2.0
    assert mine(beta=0.0).reduced() == AT()


def test_it_is_its_formula():
    """At a given perturbation: loss and gradients by a copy of the network and autograd alone."""
    model = small()
    one = step(model, "eager", method=mine(beta=0.3), awp=AWP(gamma=0))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    (x, y), x_adv = batch(0), (batch(0)[0] + delta(0)).clamp(0, 1)
    copied = small().train()
    clean, adversarial = copied(x), copied(x_adv)
    loss = torch.nn.functional.cross_entropy(adversarial, y) + 0.3 * (adversarial - clean).square().sum(1).mean()
    gradients = torch.autograd.grad(loss, list(copied.parameters()))
    torch.testing.assert_close(one(x, y, delta(0))["loss"], loss.detach(), rtol=1e-12, atol=0)
    for (name, weight), gradient in zip(before.items(), gradients, strict=True):
        torch.testing.assert_close(
            one.momentum_buffers[name] - 5e-4 * weight, gradient.detach(), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize(("gamma", "units"), [(0.0, 25), (0.01, 28)])
def test_it_costs_what_it_says(gamma, units):
    one = step(small(), "eager", method=mine(), attack=PGD(), awp=AWP(gamma=gamma))
    one(*batch(0))
    with CountedPasses(one.model, 5) as passes:
        one(*batch(1))
    assert passes.units == units
    assert gamma or units == METHODS["mine"].units


@pytest.mark.parametrize("gamma", [0.0, 0.01])
def test_it_runs_by_tape(gamma):
    eager, taped = twins(small(), "tape", method=mine(), awp=AWP(gamma=gamma))
    for n in range(3):
        assert_same_metrics(taped(*batch(n)), eager(*batch(n)))
        assert_same(taped, eager)


def test_it_trains_and_resumes(tmp_path):
    whole = tiny.trainer(config(), tmp_path / "whole")
    whole.run()
    assert whole.rows[-1]["train_loss"] < whole.rows[0]["train_loss"]
    assert whole.rows[0]["train_loss_stability"] > 0
    stopped = tiny.trainer(config(), tmp_path / "parts")

    def stop(epoch, step):
        if stopped.step.steps_taken == 5:
            stopped.interruptions.requested = SIGTERM

    stopped.observer.on_step = stop
    with pytest.raises(Stopped):
        stopped.run()
    resumed = tiny.trainer(config(), tmp_path / "parts", resume=True)
    resumed.run()
    assert len(resumed.observer.steps) == 3
    assert tiny.without_clocks(resumed.rows) == tiny.without_clocks(whole.rows)
    assert tiny.same_weights(resumed.model.state_dict(), whole.model.state_dict())


def test_the_command_line_knows_it(blocks, tmp_path, capsys):
    exec(blocks[2], {"options": list(map(str, tiny.SHORT))})
    assert "AT with paired logits" in capsys.readouterr().out
    assert (tmp_path / "paired" / "results.json").exists()
    assert '"beta": 0.3' in (tmp_path / "paired" / "config.json").read_text()
