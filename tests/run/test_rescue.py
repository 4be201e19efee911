"""Mid-epoch resume, divergence and collapse, within one process."""

from dataclasses import replace

import pytest
import tiny
import torch

from fastiseat.checkpoint.cadence import Every
from fastiseat.config import SGD
from fastiseat.engine.passes import InputGradient
from fastiseat.errors import UserError
from fastiseat.report.reader import read_metrics
from fastiseat.run import scores
from fastiseat.run.trainer import Trainer


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    tiny.install(monkeypatch)


def trainer(config, out, **more):
    return Trainer(config, out, **{"device": tiny.CPU, "observer": tiny.Watcher()} | more)


def stop_at(epoch, step):
    def look(found_epoch, found_step):
        if (found_epoch, found_step) == (epoch, step):
            raise KeyboardInterrupt

    return tiny.Watcher(on_step=look)


@pytest.mark.parametrize("method", ["at", "iseat"])
def test_a_run_goes_on_in_mid_epoch(tmp_path, method):
    config = tiny.config(method, epochs=3, batch_size=10, attack={"random_start": True, "steps": 2})
    trainer(config, tmp_path / "whole").run()
    out = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        trainer(config, out, observer=stop_at(1, 6), checkpoint_every="4steps").run()
    watcher = tiny.Watcher()
    trainer(config, out, observer=watcher, resume=True, checkpoint_every="4steps").run()
    assert watcher.steps[0][:2] == (1, 6)  # after 16 steps
    for name in ("weights/best.safetensors", "weights/last.safetensors", "results.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert tiny.without_clocks(read_metrics(out)) == tiny.without_clocks(read_metrics(tmp_path / "whole"))


def test_changed_settings_are_refused_and_taken_anyway(tmp_path):
    out, config = tmp_path / "run", tiny.config(epochs=3)
    with pytest.raises(KeyboardInterrupt):
        trainer(config, out, observer=stop_at(1, 1)).run()
    other = replace(config, optimizer=replace(config.optimizer, lr=0.05))
    with pytest.raises(UserError, match=r"optimizer\.lr: 0\.1 -> 0\.05.*--resume-anyway"):
        trainer(other, out, resume=True)
    run = trainer(other, out, resume=True, resume_anyway=True)
    run.run()
    # Both drops come in the last epoch.
    assert [row["lr"] for row in read_metrics(out)] == pytest.approx([0.1, 0.05, 0.0005])
    assert run.directory.stored()["config"]["optimizer"]["lr"] == 0.05


class Poisoned(tiny.Watcher):
    """Spoils a weight at chosen steps of the run, each time once."""

    def __init__(self, *steps):
        super().__init__()
        self.left, self.count, self.run = list(steps), 0, None

    def step(self, **told):
        super().step(**told)
        if self.left and self.run.step.steps_taken == self.left[0]:
            self.left.pop(0)
            with torch.no_grad():
                self.run.model.conv1.weight[0] = torch.nan


def poisoned(config, out, *steps, **more):
    watcher = Poisoned(*steps)
    watcher.run = trainer(config, out, observer=watcher, **more)
    return watcher


def test_a_rollback_goes_on_from_the_last_good_checkpoint_in_another_order(tmp_path):
    config = tiny.config(epochs=4)
    watcher = poisoned(config, tmp_path / "run", 5, on_nan="rollback")
    watcher.run.run()
    assert len(read_metrics(tmp_path / "run")) == 4
    (told,) = watcher.said
    assert "training diverged" in told and "back to step 4, images in another order (1 of 3 times)" in told
    trainer(config, tmp_path / "plain").run()
    after = [row["train_loss"] for row in read_metrics(tmp_path / "run")]
    plain = [row["train_loss"] for row in read_metrics(tmp_path / "plain")]
    assert after[:2] == plain[:2] and after[2] != plain[2]
    again = poisoned(config, tmp_path / "again", 5, on_nan="rollback")
    again.run.run()
    last = "weights/last.safetensors"
    assert (tmp_path / "again" / last).read_bytes() == (tmp_path / "run" / last).read_bytes()


def test_the_fourth_divergence_ends_the_run(tmp_path):
    watcher = poisoned(tiny.config(epochs=4), tmp_path / "run", 5, 5, 5, 5, on_nan="rollback")
    with pytest.raises(UserError, match="training diverged"):
        watcher.run.run()
    assert len(watcher.said) == 3
    assert watcher.run.directory.checkpoints.latest().step == 4


def test_without_a_checkpoint_there_is_nothing_to_roll_back_to(tmp_path):
    config = replace(tiny.config(epochs=3, batch_size=10), optimizer=SGD(lr=1e9))
    with pytest.raises(UserError, match="training diverged"):
        trainer(config, tmp_path / "run", on_nan="rollback").run()


def test_no_checkpoint_holds_a_number_that_is_none(tmp_path):
    watcher = poisoned(tiny.config(epochs=3), tmp_path / "run", 3, checkpoint_every="1step")
    with pytest.raises(UserError, match="training diverged"):
        watcher.run.run()
    state = watcher.run.directory.checkpoints.latest().state
    assert all(tensor.isfinite().all() for tensor in state["model"].values() if tensor.is_floating_point())


@pytest.mark.parametrize("on_nan", ["stop", "rollback"])
def test_nan_in_the_gradient_of_an_attack_is_a_divergence(tmp_path, monkeypatch, on_nan):
    """Two steps an epoch of two attack steps each: the eighth gradient belongs to the last step of epoch 2."""
    honest, calls = InputGradient.__call__, []

    def poisoned(self, x):
        calls.append(x)
        gradient = honest(self, x)
        if len(calls) == 8:
            gradient[3, 0, 0, 0] = torch.nan
        return gradient

    monkeypatch.setattr(InputGradient, "__call__", poisoned)
    config, watcher = tiny.config("at", epochs=3, attack={"steps": 2}), tiny.Watcher()
    run = trainer(config, tmp_path / "run", observer=watcher, on_nan=on_nan)
    found = "an attack met a gradient that is NaN in epoch 2, by step 2: training diverged"
    if on_nan == "stop":
        with pytest.raises(UserError, match=found):
            run.run()
        assert run.directory.checkpoints.latest().step == 2
    else:
        run.run()
        assert [said.startswith(found) for said in watcher.said] == [True]
        assert len(watcher.rows) == 3


def test_a_network_at_chance_is_reported_after_three_epochs(tmp_path, monkeypatch):
    run = trainer(tiny.config("at", epochs=6), tmp_path / "run")
    accuracies = iter([0.2, 0.05, 0.1, 0.04, 0.09, 0.03, 0.1, 0.05])
    monkeypatch.setattr(scores, "accuracy", lambda *_: next(accuracies))
    with pytest.raises(UserError, match="for 3 epochs the network is no better than chance"):
        run.run()
    assert len(read_metrics(tmp_path / "run")) == 4


def test_a_network_that_predicts_one_class_is_reported_after_three_epochs(tmp_path, monkeypatch):
    run = trainer(tiny.config("at", epochs=6), tmp_path / "run")
    share = max((run.data.selection.labels == label).mean() for label in range(10))
    monkeypatch.setattr(scores, "accuracy", lambda *_: float(share))
    with pytest.raises(UserError, match="for 3 epochs the network predicts one class for everything"):
        run.run()
    assert len(read_metrics(tmp_path / "run")) == 3
    assert run.directory.checkpoints.latest().step == 6


@pytest.mark.parametrize("settings", [{"checkpoint_every": "often"}, {"keep": 0}, {"on_nan": "pray"}])
def test_impossible_wishes_are_refused(tmp_path, settings):
    with pytest.raises(UserError, match=str(next(iter(settings.values())))):
        trainer(tiny.config(), tmp_path / "run", **settings)


def test_checkpoints_are_kept_as_asked(tmp_path):
    trainer(tiny.config(epochs=3), tmp_path / "run", checkpoint_every="1step", keep=3).run()
    assert len(list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))) == 3


def test_the_cadence_in_words():
    assert Every.parse("3 epochs").after_epoch(6) and not Every.parse("3e").after_epoch(7)
    assert Every.parse("5steps").after_step(10) and not Every.parse("5 s").after_step(11)
    minutes = Every.parse("10min")
    assert not minutes.after_step(1)
    minutes._last -= 601
    assert minutes.after_step(1)
    minutes.written()
    assert not minutes.after_step(1)
