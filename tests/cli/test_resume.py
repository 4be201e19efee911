"""``fastiseat train --out DIR --resume``: the run's own settings and options, and what is given in their place."""

import json
import os
import shlex
import signal
from pathlib import Path

import pytest
import tiny

from fastiseat.__main__ import main
from fastiseat.cli.train.command import parse
from fastiseat.cli.train.flags import Train
from fastiseat.cli.train.resume import OPTIONS, noted, own_options
from fastiseat.errors import UserError
from fastiseat.report.reader import read_metrics
from fastiseat.run.trainer import Trainer

# Settings that no recipe has, so that a default in their place would show.
ODD = ("--method", "at", "--epochs", 3, "--batch-size", 30, "--steps", 2, "--lr", 0.07, "--seed", 5, "--val-split", 0.2,
       "--final-steps", 0)  # fmt: skip
FILES = ("weights/best.safetensors", "weights/last.safetensors", "results.json")


@pytest.fixture
def stopped(fastiseat, monkeypatch):
    """Begin the run in a folder and send it SIGTERM in its second epoch; what the command left."""

    def begin(out, *words, at=(1, 1)):
        def watched(self, *, epoch, step, **_):
            if (epoch, step) == at:
                os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr("fastiseat.cli.console.display.Display.step", watched)
            return fastiseat("train", *ODD, *words, "--out", out)

    return begin


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody stopped; not to be changed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        tiny.install(patch)
        assert main([str(word) for word in ("train", *ODD, "--quiet", "--out", out)]) == 0
    return out


def assert_same_run(run, other):
    assert tiny.without_clocks(read_metrics(run)) == tiny.without_clocks(read_metrics(other))
    for name in FILES:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name


def stored(run):
    return json.loads((Path(run) / "config.json").read_text())


@pytest.mark.parametrize("out", ["run", "my run's $HOME", "-x", "ε;"])
def test_the_stop_message_is_the_whole_command(fastiseat, stopped, whole, out):
    result = stopped(f"./{out}" if out == "-x" else out)
    assert result.code == 143
    told = "fastiseat: stopped by SIGTERM after a checkpoint; go on with: "
    assert result.err.startswith(told)
    program, *words = shlex.split(result.err.removeprefix(told))
    assert program == "fastiseat" and words[-1] == "--resume"
    again = fastiseat(*words)
    assert again.code == 0, again
    assert "epoch 1/3" not in again.out and "epoch 3/3" in again.out
    assert_same_run(Path(out), whole)


def test_a_folder_that_begins_with_a_dash_is_no_flag(tmp_path):
    from fastiseat.checkpoint import RunDirectory

    words = shlex.split(RunDirectory(Path("-x")).resuming())
    assert words == ["fastiseat", "train", "--out=-x", "--resume"]
    assert parse(words[2:]).out == Path("-x")


def test_all_the_words_again_go_on_too(fastiseat, stopped, whole):
    stopped("run")
    assert fastiseat("train", *ODD, "--out", "run", "--resume").code == 0
    assert_same_run(Path("run"), whole)


def test_the_settings_of_a_file_are_compared_with_the_runs(fastiseat, stopped, whole, tmp_path):
    stopped("run")
    other = tiny.settings_file(tmp_path, {"objective": {"method": "at"}})
    complaint = fastiseat("train", "--config", other, "--out", "run", "--resume").complaint
    assert "run holds a run with other settings (" in complaint and "run.seed: 5 -> 0" in complaint
    assert fastiseat("train", "--config", "run/config.json", "--out", "run", "--resume").code == 0
    assert_same_run(Path("run"), whole)


def test_flags_are_changes(fastiseat, stopped):
    stopped("run")
    complaint = fastiseat("train", "--out", "run", "--resume", "--lr", 0.03).complaint
    assert complaint.startswith(
        "run holds a run with other settings (optimizer.lr: 0.07 -> 0.03): leave them out to "
    )
    assert complaint.endswith("go on with the new ones by --resume-anyway; then from epoch 2 on lr 0.07 -> 0.03")
    result = fastiseat("train", "--out", "run", "--resume-anyway", "--lr", 0.03)
    assert result.code == 0
    assert "from epoch 2 on lr 0.07 -> 0.03" in result.out.splitlines()
    config = stored("run")["config"]
    assert (config["optimizer"]["lr"], config["run"]["seed"], config["data"]["batch_size"]) == (0.03, 5, 30)


def test_more_epochs_say_what_the_learning_rate_does(fastiseat):
    assert fastiseat("train", *ODD, "--out", "run").code == 0
    complaint = fastiseat("train", "--out", "run", "--resume", "--epochs", 6).complaint
    assert "schedule.epochs: 3 -> 6" in complaint
    turns = "from epoch 4 on lr 0.0007 -> 0.007, as the stages are fractions of 6 epochs"
    assert complaint.endswith(turns)
    result = fastiseat("train", "--out", "run", "--resume-anyway", "--epochs", 6)
    assert turns in result.out.splitlines()
    assert [row["lr"] for row in read_metrics(Path("run"))] == pytest.approx(
        [0.07, 0.07, 0.0007, 0.007, 0.007, 0.0007]
    )


OTHER = {
    "checkpoint_every": "1step", "keep": 3, "on_nan": "rollback", "data_dir": "somewhere", "loader": "torch",
    "device": "cpu",
    "execution": {"engine": "eager", "clean_graph": "recompute"},
}  # fmt: skip
OPTION_FLAGS = ("--checkpoint-every", "1step", "--keep", 3, "--on-nan", "rollback", "--data-dir", "somewhere",
         "--loader", "torch", "--device", "cpu", "--engine", "eager", "--clean-graph", "recompute")  # fmt: skip


def seen(monkeypatch, fastiseat, *words):
    """What the command hands to the trainer."""
    found = {}

    def look(self, *_, **more):
        found.update(more)
        raise UserError("seen")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "__init__", look)
        assert fastiseat("train", *words).complaint == "seen"
    return found


def test_options_come_back_from_any_folder(fastiseat, stopped, monkeypatch, tmp_path):
    stopped("run", *OPTION_FLAGS)
    assert set(stored("run")["options"]) == set(OPTIONS) == set(OTHER)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = seen(monkeypatch, fastiseat, "--out", "../run", "--resume")
    assert found["data_dir"] == tmp_path / "somewhere"
    for name in ("checkpoint_every", "keep", "on_nan", "loader"):
        assert found[name] == OTHER[name], name
    assert (found["execution"].engine, found["execution"].clean_graph) == ("eager", "recompute")
    found = seen(monkeypatch, fastiseat, "--out", "../run", "--resume", "--keep", 1, "--loader", "resident")
    assert (found["keep"], found["loader"], found["on_nan"]) == (1, "resident", "rollback")


def test_options_that_were_given_last_are_kept(fastiseat, stopped):
    stopped("run", "--keep", 3)
    before = stored("run")
    assert fastiseat("train", "--out", "run", "--resume", "--keep", 1).code == 0
    assert stored("run") == before | {"options": before["options"] | {"keep": 1}}


def test_every_option_beside_the_settings_is_kept_or_known_not_to_be():
    """A flag of ``train`` that is added later belongs into one of the two."""
    about_this_call = {
        "config",
        "config_file",
        "out",
        "resume",
        "resume_anyway",
        "fine_tune",
        "quiet",
        "dry_run",
        "wait",
    }
    assert set(Train.__dataclass_fields__) == set(OPTIONS) | about_this_call


def test_options_survive_the_way_through_the_file(tmp_path):
    arguments = parse([str(word) for word in OPTION_FLAGS])
    (tmp_path / "config.json").write_text(json.dumps({"config": {}, "options": noted(arguments)}))
    found = own_options(tmp_path, Train)
    assert found == {name: getattr(arguments, name) for name in OPTIONS} | {
        "data_dir": Path("somewhere").absolute()
    }


def test_a_run_of_an_earlier_version_has_the_defaults(fastiseat, stopped, whole):
    stopped("run")
    content = stored("run")
    del content["options"]
    Path("run/config.json").write_text(json.dumps(content))
    assert fastiseat("train", "--out", "run", "--resume").code == 0
    assert_same_run(Path("run"), whole)


def test_a_folder_where_no_run_has_begun_starts_one_and_says_so(fastiseat):
    result = fastiseat("train", *ODD, "--out", "new", "--resume")
    assert result.code == 0
    assert "new holds no checkpoint yet: the run starts at its beginning" in result.out.splitlines()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "run holds no readable config.json: it is not a run's directory; choose another"),
        ("", "or the file is damaged (Expecting value"),
        ('{"config": 3}', "or the file is damaged (no settings)"),
        ('{"config": {"schedule": {"epochs": "many"}}}', "schedule.epochs='many': "),
        ('{"config": {"optimizer": {"lr": -1}}}', "lr=-1"),
        ('{"config": {}, "options": {"keep": "few"}}', "run/config.json: its options can't be read ("),
        ('{"config": {}, "options": {"execution": {"engine": "steam"}}}', "its options can't be read ("),
        ('{"config": {}, "options": 5}', "its options can't be read (options are an object): restore the file"),
    ],
)
def test_a_config_that_is_missing_or_damaged_is_told_and_nothing_touched(fastiseat, content, complaint):
    Path("run").mkdir()
    Path("run/notes.txt").write_text("mine")
    if content is not None:
        Path("run/config.json").write_text(content)
    before = {path: path.read_bytes() for path in Path("run").iterdir()}
    assert complaint in fastiseat("train", "--out", "run", "--resume").complaint
    assert {path: path.read_bytes() for path in Path("run").iterdir()} == before


def test_a_dry_run_plans_the_rest_of_the_run(fastiseat, stopped):
    stopped("run")
    planned = json.loads(fastiseat("train", "--out", "run", "--resume", "--dry-run").out)
    assert planned["config"] == stored("run")["config"]
