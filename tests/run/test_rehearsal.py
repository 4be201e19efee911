"""A run's closing steps are taken before its first one: what the end would refuse is refused at the start."""

import errno
import os
from pathlib import Path

import pytest
import tiny
import torch

from fastiseat import models
from fastiseat.config import Data, Network, Objective
from fastiseat.errors import UserError
from fastiseat.report.curves import draw_curves
from fastiseat.run.opening import rehearse

BYTES = os.fsdecode(b"run-\xff\xfe-$x$-\x1b[1m")
"""A folder's name that is no UTF-8, no formula and no command to a terminal."""


def test_a_folder_of_any_name_holds_a_run(tmp_path):
    out, watcher = tmp_path / BYTES, tiny.Watcher()
    results = tiny.trainer(tiny.config("none", epochs=1), out, observer=watcher).run()
    assert [row["weights"] for row in results] == ["best", "last"]
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {
        "checkpoints", "config.json", "figures", "metrics.jsonl", "results.json", "weights",
    }  # fmt: skip
    assert not watcher.said
    models.load_model(out / "weights" / "best.safetensors")
    again = tiny.trainer(tiny.config("none", epochs=1), out, resume=True).run()
    assert again == results
    assert draw_curves(out).stat().st_size


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refused(*_, **__):
    raise UserError("not this one")


@pytest.mark.parametrize(
    ("place", "fails"),
    [
        ("fastiseat.safe.writing._write_new", full),
        ("fastiseat.checkpoint.directory.to_safetensors", refused),
        ("fastiseat.models.load_model", refused),
        ("fastiseat.run.opening.draw_title", refused),
        ("fastiseat.checkpoint.directory.RunDirectory.write_results", refused),
    ],
)
def test_what_the_end_would_refuse_is_refused_before_the_first_step(tmp_path, monkeypatch, place, fails):
    watcher = tiny.Watcher()
    trainer = tiny.trainer(tiny.config("at", epochs=1), tmp_path / "run", observer=watcher)
    with monkeypatch.context() as patch:
        patch.setattr(place, fails)
        with pytest.raises(UserError, match=r"No space left|not this one"):
            trainer.run()
    assert not watcher.steps
    assert [path.name for path in (tmp_path / "run").rglob("*")] in ([], [".lock"])
    tiny.trainer(tiny.config("at", epochs=1), tmp_path / "run").run()


def test_it_leaves_nothing_and_draws_no_number(tmp_path):
    trainer = tiny.trainer(tiny.config("iseat", epochs=1), tmp_path / "run")
    state = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    drawn = torch.random.get_rng_state()
    rehearse(trainer)
    assert tiny.same_weights(trainer.model.state_dict(), state)
    assert torch.random.get_rng_state().equal(drawn)
    assert not list((tmp_path / "run").iterdir())


def test_what_a_killed_one_left_is_removed(tmp_path):
    left = tmp_path / "run" / f".scratch.{16 * '0'}.tmp"
    left.mkdir(parents=True)
    (left / "big").write_bytes(bytes(9))
    kept = tmp_path / "run" / ".mine"
    kept.mkdir()
    tiny.trainer(tiny.config("none", epochs=1), tmp_path / "run").run()
    assert not left.exists() and kept.exists()


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / f".scratch.{16 * '0'}.tmp").symlink_to(tmp_path / "precious")
    tiny.trainer(tiny.config("none", epochs=1), tmp_path / "run").run()
    assert (tmp_path / "precious").is_dir()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Data(dataset=f"npz:{BYTES}"),
        lambda: Data(extra=Path(BYTES)),
        lambda: Network(init=Path(BYTES)),
        lambda: Objective(standard=Path(BYTES)),
    ],
)
def test_other_files_have_names_that_json_and_metadata_hold(make):
    with pytest.raises(UserError, match=r"has bytes that are no UTF-8, in the locale at hand: rename it"):
        make()
