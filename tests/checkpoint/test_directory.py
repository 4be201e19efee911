"""A run's directory: which one a run may write into, and what it holds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastiseat.checkpoint import WEIGHTS, RunDirectory, as_json, changes
from fastiseat.config import Network, Schedule
from fastiseat.errors import UserError
from fastiseat.models import build, load_model, metadata
from fastiseat.recipes import recipe

# Tuples in tuples as the key of a dict, whose hash would take more than the stack.


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def run(tmp_path):
    """A directory with a config and a checkpoint."""
    run = RunDirectory.open(tmp_path / "run", recipe(), resume=False)
    run.write_config(recipe(), {"data_fingerprint": "f"})
    run.checkpoints.save({"rows": [1], "model": {"w": torch.ones(2)}}, step=1)
    run.checkpoints.close()
    return run


def test_open_takes_a_new_an_empty_and_a_barely_begun_directory(tmp_path):
    for resume in (False, True):
        assert RunDirectory.open(tmp_path / "new", recipe(), resume=resume).path == tmp_path / "new"
        assert RunDirectory.open(tmp_path, recipe(), resume=resume).checkpoints.latest() is None
    assert files_in(tmp_path) == [], "opening writes nothing"
    (tmp_path / ".config.json.99.tmp").touch()  # what a killed process leaves
    RunDirectory.open(tmp_path, recipe(), resume=False)


def test_open_refuses_what_is_there_already(run, tmp_path):
    with pytest.raises(UserError, match="run is not empty: add --resume to continue its run, or choose"):
        RunDirectory.open(run.path, recipe(), resume=False)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file: choose another --out"):
        RunDirectory.open(tmp_path / "file", recipe(), resume=True)
    with pytest.raises(UserError, match=r"holds no readable config.json: it is not a run's directory"):
        RunDirectory.open(tmp_path, recipe(), resume=True)


def test_resuming_needs_the_same_config_and_names_what_changed(run):
    assert RunDirectory.open(run.path, recipe(), resume=True).checkpoints.latest().state["rows"] == [1]
    other = replace(recipe(), schedule=Schedule(epochs=7), network=Network(arch="small", init=Path("w.pt")))
    with pytest.raises(UserError) as refused:
        RunDirectory.open(run.path, other, resume=True)
    assert "(network.init: None -> w.pt; schedule.epochs: 20 -> 7)" in str(refused.value)
    assert "leave them out to go on with the run's own, or go on with the new ones by" in str(refused.value)


def test_a_run_from_before_momentum_moved_goes_on_as_it_began(tmp_path):
    """Its settings do not name a cycle: it had none."""
    onecycle = replace(recipe(), schedule=Schedule(lr_shape="onecycle"))
    run = RunDirectory.open(tmp_path / "run", onecycle, resume=False)
    run.write_config(onecycle, {})
    stored = json.loads((run.path / "config.json").read_text())
    del stored["config"]["schedule"]["momentum_cycle"]
    (run.path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"\(schedule.momentum_cycle: None -> \[0.95, 0.85\]\): leave them out"):
        RunDirectory.open(run.path, onecycle, resume=True)
    still = replace(onecycle, schedule=replace(onecycle.schedule, momentum_cycle=None))
    assert RunDirectory.open(run.path, still, resume=True).stored_config() == still


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"config": 5}',
        b'{"config": null}',
        b'{"config": [[1, 2]]}',
        b"[" * 10**5,
        b"5",
        b"\xff",
    ],
)
def test_a_damaged_config_is_no_runs_directory(run, content):
    (run.path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"holds no readable config.json"):
        RunDirectory.open(run.path, recipe(), resume=True)


def test_changes_lists_additions_and_removals():
    assert changes({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "d": 3}}) == ["a.c: 2 -> None", "a.d: None -> 3"]
    assert changes(as_json(recipe()), as_json(recipe())) == []


def test_weights_round_trip_with_their_metadata(run):
    model = build("small", in_channels=1)
    run.write_weights("best", model, metadata(model.spec, eps="0.1"))
    loaded = load_model(run.path / WEIGHTS["best"])
    assert loaded.spec == model.spec
    for name, weight in model.state_dict().items():
        assert loaded.state_dict()[name].equal(weight)


def test_json_files_are_readable_as_such(run):
    run.write_metrics([{"epoch": 0, "loss": 0.1}, {"epoch": 1, "loss": 1e-9}])
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"epoch": 0, "loss": 0.1}, {"epoch": 1, "loss": 1e-9}]
    stored = json.loads((run.path / "config.json").read_text())
    assert stored == {"config": as_json(recipe()), "data_fingerprint": "f"}


def test_a_run_from_before_a_setting_existed_has_its_default(run):
    path = run.path / "config.json"
    content = json.loads(path.read_text())
    del content["config"]["run"]["tf32"], content["config"]["awp"]
    path.write_text(json.dumps(content))
    RunDirectory.open(run.path, recipe(), resume=True)
    other = replace(recipe(), run=replace(recipe().run, tf32=False))
    with pytest.raises(UserError, match=r"\(run.tf32: True -> False\)"):
        RunDirectory.open(run.path, other, resume=True)
