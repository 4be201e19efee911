"""A run that was stopped and continued is the run that was not, to the last bit."""

from contextlib import ExitStack, nullcontext

import pytest
import tiny
import torch
from devices import DEVICES

from fastiseat import lock
from fastiseat.checkpoint import RunDirectory
from fastiseat.errors import UserError
from fastiseat.report.reader import read_metrics
from fastiseat.run.trainer import Trainer


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    tiny.install(monkeypatch)


def stop():
    raise KeyboardInterrupt


def interrupted(config, out, watcher, **more):
    with pytest.raises(KeyboardInterrupt):
        tiny.trainer(config, out, observer=watcher, **more).run()


def repeatable(device):
    """What a run's bits need on this device to be the same twice."""
    return {"deterministic": device == "cuda"}


def after_epoch(number):
    return tiny.Watcher(on_epoch=lambda row: stop() if row["epoch"] == number else None)


def in_epoch(number):
    return tiny.Watcher(on_step=lambda epoch, step: stop() if (epoch, step) == (number, 1) else None)


def assert_same_run(run, other):
    assert tiny.without_clocks(read_metrics(run)) == tiny.without_clocks(read_metrics(other))
    for which in ("best", "last"):
        name = f"weights/{which}.safetensors"
        assert (run / name).read_bytes() == (other / name).read_bytes(), which
    assert (run / "results.json").read_bytes() == (other / "results.json").read_bytes()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("settings", "stopped"),
    [
        ({}, after_epoch(1)),
        ({"attack": {"random_start": True, "steps": 3}}, in_epoch(2)),
        ({"method": "at", "data": {"val_split": 0.2}, "batch_size": 40}, in_epoch(2)),
    ],
    ids=["iseat, after epoch 2", "random start, in epoch 3", "validation split, in epoch 3"],
)
def test_a_resumed_run_is_the_whole_run(tmp_path, settings, stopped, device):
    config = tiny.config(epochs=4, run=repeatable(device), **settings)
    tiny.trainer(config, tmp_path / "whole", device=device).run()
    interrupted(config, tmp_path / "stopped", stopped, device=device)
    assert len(read_metrics(tmp_path / "stopped")) == 2
    resumed = tiny.Watcher()
    tiny.trainer(config, tmp_path / "stopped", observer=resumed, resume=True, device=device).run()
    assert {epoch for epoch, *_ in resumed.steps} == {2, 3}, "finished epochs are not trained again"
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("device", DEVICES)
def test_the_seed_decides_everything(tmp_path, device):
    runs = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(ord(name))  # the caller's random state has no part in it
        config = tiny.config(epochs=1, run=repeatable(device) | {"seed": seed})
        runs[name] = tiny.trainer(config, tmp_path / name, device=device)
        runs[name].run()
    assert_same_run(tmp_path / "a", tmp_path / "b")
    weights = [runs[name].model.state_dict()["conv1.weight"] for name in "ac"]
    assert not torch.equal(*weights)


def test_the_seed_of_the_random_start_counts(tmp_path):
    """With the same first weights and order, another seed of the starts gives other weights."""
    config = tiny.config("at", epochs=1, attack={"random_start": True})
    one, other = (tiny.trainer(config, tmp_path / name) for name in "ab")
    other.step.seed += 1
    assert tiny.same_weights(one.model.state_dict(), other.model.state_dict())
    one.run(), other.run()
    assert not tiny.same_weights(one.model.state_dict(), other.model.state_dict())


def test_resume_in_an_empty_folder_starts_afresh(tmp_path):
    config = tiny.config("none", epochs=1)
    for name in ("new", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        trainer = tiny.trainer(config, tmp_path / name, resume=True)
        trainer.run()
        assert [row["epoch"] for row in trainer.rows] == [0]


def test_resume_after_a_stop_in_the_first_epoch_starts_afresh(tmp_path):
    config = tiny.config("none", epochs=2)
    interrupted(config, tmp_path / "run", in_epoch(0))
    tiny.trainer(config, tmp_path / "run", resume=True).run()
    tiny.trainer(config, tmp_path / "whole").run()
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_finished_run_is_not_trained_again_and_lost_reports_come_back(tmp_path):
    out, config = tmp_path / "run", tiny.config("none", epochs=1)
    results = tiny.trainer(config, out).run()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for lost in ("results.json", "metrics.jsonl", "figures/curves.png"):
        (out / lost).unlink()
    again = tiny.Watcher()
    assert tiny.trainer(config, out, observer=again, resume=True).run() == results
    assert again.steps == again.rows == []
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_run_that_waits_goes_on_where_the_other_ended(tmp_path, monkeypatch):
    out, config = tmp_path / "run", tiny.config("none", epochs=1)
    with ExitStack() as other:
        other.enter_context(lock.locked(out))
        # Another run comes to its end meanwhile, but for the lock, which it gives up last.
        waits = Trainer(config, out, device=tiny.CPU, observer=tiny.Watcher(), resume=True, wait=True)
        with monkeypatch.context() as patch:
            patch.setattr("fastiseat.run.loop.locked", lambda *_, **__: nullcontext())
            first = tiny.trainer(config, out)
            first.run()
        monkeypatch.setattr(lock.time, "sleep", lambda seconds: other.close())
        assert waits.run() and waits.observer.steps == []
    assert waits.observer.said[0].endswith(": waiting for it to end")


def test_a_stop_between_the_last_checkpoint_and_its_metrics_loses_no_line(tmp_path, monkeypatch):
    out, config = tmp_path / "run", tiny.config("none", epochs=2)
    write = RunDirectory.write_metrics
    with monkeypatch.context() as patch:
        patch.setattr(
            RunDirectory, "write_metrics", lambda run, rows: write(run, rows) if len(rows) < 2 else stop()
        )
        interrupted(config, out, tiny.Watcher())
    tiny.trainer(config, out, resume=True).run()
    assert [row["epoch"] for row in read_metrics(out)] == [0, 1]


def test_resuming_on_other_images_is_refused(tmp_path, monkeypatch):
    config = tiny.config("none", epochs=2)
    interrupted(config, tmp_path / "run", after_epoch(0))
    tiny.install(monkeypatch, test=61)
    with pytest.raises(UserError, match="run was trained on other digits images than are found now"):
        tiny.trainer(config, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("rows"),
        lambda state: state["model"].pop("conv1.weight"),
        lambda state: state["model"].update({"conv1.weight": torch.zeros(1)}),
        lambda state: state["step"]["momentum_buffers"].update({"conv1.weight": torch.zeros(1)}),
        lambda state: state.update(step=None),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, spoil):
    out, config = tmp_path / "run", tiny.config("none", epochs=2)
    interrupted(config, out, after_epoch(0))
    checkpoints = RunDirectory(out).checkpoints
    found = checkpoints.latest()
    spoil(found.state)
    checkpoints.save(found.state, step=found.step)
    checkpoints.close()
    with pytest.raises(
        UserError,
        match=r"2.ckpt is not of this run: .*; bring the run's own back, or remove .*/checkpoints to",
    ):
        tiny.trainer(config, out, resume=True)


def test_a_damaged_checkpoint_costs_an_epoch_and_no_more(tmp_path):
    config = tiny.config("at", epochs=3)
    tiny.trainer(config, tmp_path / "whole").run()
    interrupted(config, tmp_path / "run", after_epoch(1))
    damaged = tmp_path / "run" / "checkpoints" / "step-000000004.ckpt"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    resumed = tiny.Watcher()
    tiny.trainer(config, tmp_path / "run", observer=resumed, resume=True).run()
    assert resumed.said[0].startswith(f"{damaged} is damaged: it holds ")
    assert {epoch for epoch, *_ in resumed.steps} == {1, 2}
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    config = tiny.config("at", epochs=2)
    tiny.trainer(config, tmp_path / "whole").run()
    interrupted(config, tmp_path / "run", after_epoch(0))
    found = RunDirectory(tmp_path / "run").checkpoints.latest()
    torch.save(found.state, found.path.with_name("last.pt"))
    found.path.unlink()
    resumed = tiny.Watcher()
    tiny.trainer(config, tmp_path / "run", observer=resumed, resume=True).run()
    assert {epoch for epoch, *_ in resumed.steps} == {1}
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_what_a_checkpoint_holds(tmp_path):
    """A checkpoint that forgot the momentum would still pass for a short run without it."""
    trainer = tiny.trainer(tiny.config("at", epochs=1), tmp_path / "run")
    trainer.run()
    state = RunDirectory(tmp_path / "run").checkpoints.latest().state
    assert set(state["step"]["momentum_buffers"]) == set(trainer.step.weights)
    assert state["step"]["steps_taken"] == 2
    assert tiny.same_weights(state["model"], trainer.model.state_dict())
    assert state["rows"] == trainer.rows
