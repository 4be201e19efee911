"""A run's directory that came from elsewhere, or that another run had meanwhile."""

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import tiny

from fastiseat.checkpoint import RunDirectory
from fastiseat.errors import UserError


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    tiny.install(monkeypatch)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run that was stopped after the first of two epochs."""
    out = tmp_path_factory.mktemp("begun") / "run"

    def stop(row):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        tiny.install(patch)
        with pytest.raises(KeyboardInterrupt):
            tiny.trainer(CONFIG, out, observer=tiny.Watcher(on_epoch=stop)).run()
    return out


CONFIG = tiny.config("at", run={"final_steps": 0})
MINE = b"precious"


def files_of(run):
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())


def link_to_mine(path, target):
    """``path`` as a link to a file or a folder outside, with its content."""
    if path.is_dir():
        shutil.copytree(path, target)
        shutil.rmtree(path)
    else:
        target.write_bytes(path.read_bytes() if path.exists() else MINE)
        path.unlink(missing_ok=True)
    path.symlink_to(target)


def content_of(path):
    if path.is_dir():
        return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
    return path.read_bytes()


NAMES = [".lock", "config.json", "metrics.jsonl", "results.json", "weights", "checkpoints", "figures",
         "weights/best.safetensors", "weights/last.safetensors", "figures/curves.png"]  # fmt: skip


def test_every_file_of_a_run_is_among_those_that_are_tried(begun):
    known = set(NAMES)
    assert all({name, str(Path(name).parent)} & known for name in files_of(begun))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_outside_of_a_runs_directory_is_written(tmp_path, begun, name):
    """Whether the run is refused or goes on, what a link in it points to stays as it is."""
    out, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(begun, out)
    link_to_mine(out / name, outside)
    before = content_of(outside)
    refused = pytest.raises(UserError, match="is a symbolic link, and nothing is written through one")
    with refused if name in ("weights", "checkpoints", ".lock") else nullcontext():
        tiny.trainer(CONFIG, out, resume=True).run()
    assert content_of(outside) == before


def test_what_killed_writes_left_is_swept_everywhere(tmp_path, begun):
    out = tmp_path / "run"
    shutil.copytree(begun, out)
    folders = {path.parent for path in out.rglob("*") if path.is_file()}
    for folder in folders:
        (folder / ".x.safetensors.0123456789abcdef.tmp").write_bytes(bytes(1000))
    tiny.trainer(CONFIG, out, resume=True).run()
    assert not list(out.rglob("*.tmp"))


def test_a_run_that_another_finished_meanwhile_is_not_overwritten(tmp_path):
    out = tmp_path / "run"
    second = tiny.trainer(CONFIG, out)
    first = tiny.trainer(CONFIG, out)
    first.run()
    before = {name: (out / name).read_bytes() for name in files_of(out)}
    with pytest.raises(UserError, match="is not empty: add --resume to continue its run"):
        second.run()
    assert {name: (out / name).read_bytes() for name in files_of(out)} == before


def test_a_run_that_another_went_on_with_goes_on_from_there(tmp_path, begun):
    out = tmp_path / "run"
    shutil.copytree(begun, out)
    watcher = tiny.Watcher()
    second = tiny.trainer(CONFIG, out, observer=watcher, resume=True)
    tiny.trainer(CONFIG, out, resume=True).run()
    before = (out / "weights" / "last.safetensors").read_bytes()
    second.run()
    assert watcher.steps == [], "the whole run was done already"
    assert (out / "weights" / "last.safetensors").read_bytes() == before


def test_settings_that_changed_meanwhile_are_refused(tmp_path, begun):
    out = tmp_path / "run"
    shutil.copytree(begun, out)
    second = tiny.trainer(CONFIG, out, resume=True)
    other = tiny.config("at", run={"final_steps": 0, "seed": 7})
    shutil.rmtree(out)
    tiny.trainer(other, out).run()
    with pytest.raises(UserError, match="holds a run with other settings"):
        second.run()
    assert RunDirectory(out).stored_config().run.seed == 7
