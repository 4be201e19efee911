"""Shorter runs, half precision, and the mark on data that is not the official release."""

import json
from dataclasses import replace

import pytest
import tiny
import torch

from fastiseat.checkpoint import RunDirectory
from fastiseat.config import Schedule
from fastiseat.pipelines.data import datasets
from fastiseat.run.trainer import Trainer


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    tiny.install(monkeypatch)


def with_steps(max_steps, epochs=4):
    """Two steps an epoch."""
    config = tiny.config(epochs=epochs)
    return replace(config, schedule=replace(config.schedule, max_steps=max_steps))


@pytest.mark.parametrize(("max_steps", "steps"), [(1, [1]), (2, [2]), (3, [2, 1]), (99, [2, 2, 2, 2])])
def test_a_run_stops_after_so_many_steps(tmp_path, max_steps, steps):
    watcher = tiny.Watcher()
    tiny.trainer(with_steps(max_steps), tmp_path / "run", observer=watcher).run()
    assert [row["steps"] for row in watcher.rows] == steps
    assert len(watcher.steps) == sum(steps)
    assert [len(row["train_loss_parts"]) for row in watcher.rows] == steps


def test_the_schedule_of_a_stopped_run_is_the_whole_runs(tmp_path):
    watcher = tiny.Watcher()
    tiny.trainer(with_steps(5), tmp_path / "run", observer=watcher).run()
    assert [row["lr"] for row in watcher.rows] == pytest.approx([0.1, 0.1, 0.01])


def test_a_stopped_run_resumes_to_the_same_end(tmp_path):
    def stop(row):
        raise KeyboardInterrupt

    whole = tiny.trainer(with_steps(3), tmp_path / "whole")
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        tiny.trainer(with_steps(3), tmp_path / "broken", observer=tiny.Watcher(on_epoch=stop)).run()
    resumed = tiny.trainer(with_steps(3), tmp_path / "broken", resume=True)
    resumed.run()
    assert tiny.same_weights(whole.model.state_dict(), resumed.model.state_dict())


def test_max_steps_must_be_positive():
    with pytest.raises(Exception, match="max_steps=0: must be at least 1"):
        Schedule(max_steps=0)


@pytest.mark.parametrize(("native", "precision", "notices"), [(True, "bf16", 0), (False, "full", 1)])
def test_amp_is_what_the_cpu_is_good_at(tmp_path, monkeypatch, native, precision, notices):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    watcher = tiny.Watcher()
    run = tiny.trainer(tiny.config(epochs=1, run={"amp": True}), tmp_path / "run", observer=watcher)
    run.run()
    assert run.step._passes.precision == precision
    assert RunDirectory(tmp_path / "run").stored()["precision"] == precision
    assert len(watcher.said) == notices
    assert all("training in float32" in line for line in watcher.said)


@pytest.mark.parametrize(("native", "notices"), [(True, 0), (False, 1)])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_amp_dtype_is_taken_whatever_the_cpu_is_good_at(tmp_path, monkeypatch, dtype, native, notices):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    watcher = tiny.Watcher()
    config = tiny.config(epochs=1, run={"amp": True, "amp_dtype": dtype})
    assert tiny.trainer(config, tmp_path / "run", observer=watcher).precision == dtype
    assert len(watcher.said) == notices
    assert all(f"--amp-dtype {dtype}: this CPU would emulate it" in line for line in watcher.said)


def test_half_precision_trains_other_weights_and_full_precision_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    full, half = (
        tiny.trainer(tiny.config(epochs=1, run={"amp": amp}), tmp_path / str(amp)) for amp in (False, True)
    )
    full.run(), half.run()
    assert full.precision == "full"
    assert not tiny.same_weights(full.model.state_dict(), half.model.state_dict())


@pytest.mark.parametrize("official", [True, False, None])
def test_whether_the_data_is_the_official_release_is_in_the_runs_record(tmp_path, monkeypatch, official):
    monkeypatch.setattr(datasets, "load", lambda name, **places: replace(tiny.data(), official=official))
    tiny.trainer(tiny.config(epochs=1), tmp_path / "run").run()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data_official"] is official


def test_augmentation_changes_what_is_trained_on_and_is_the_same_twice(tmp_path):
    def trained(name, **data) -> Trainer:
        run = tiny.trainer(tiny.config(epochs=1, data=data), tmp_path / name)
        run.run()
        return run

    plain, first, again = (
        trained("plain"),
        trained("first", flip=True, crop_padding=1),
        trained("again", flip=True, crop_padding=1),
    )
    assert tiny.same_weights(first.model.state_dict(), again.model.state_dict())
    assert not tiny.same_weights(first.model.state_dict(), plain.model.state_dict())
