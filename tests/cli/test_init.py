"""What a training begins from: a file or a run, whose network it takes, and what is said of it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastiseat.checkpoint import RunDirectory
from fastiseat.models import build, export_state_dict, metadata

SIZES = ("--batch-size", 10, "--limit-test", 10)
SHORT = ("--epochs", 1, "--max-steps", 1, "--steps", 1, "--final-steps", 0, "--lr", 0, *SIZES)
DRY = ("--dry-run", "--batch-size", 10)
BEST = Path("weights", "best.safetensors")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """What counts of a run of another network than the recipe's."""
    out, model = tmp_path_factory.mktemp("other") / "run", build("wrn-10-1", variant="common", in_channels=1)
    RunDirectory(out).write_weights("best", model, metadata(model.spec, dataset="digits"))
    return out


def flat(text):
    """Without the line breaks of a terminal."""
    return "".join(text.split())


def network_of(run):
    return json.loads((Path(run) / "config.json").read_text())["config"]["network"]


def test_a_runs_folder_gives_its_best_weights_and_its_network(fastiseat, other):
    result = fastiseat("train", *SHORT, "--init", other, "--out", "run")
    assert result.code == 0, result
    assert flat(f"--arch wrn-10-1 --variant common: that of {other / BEST}") in flat(result.out)
    assert flat(f"--init {other}: the run's best weights, {other / BEST}") in flat(result.out)
    found = network_of("run")
    assert (found["arch"], found["variant"], found["init"]) == ("wrn-10-1", "common", str(other / BEST))
    before, after = load_file(other / BEST), load_file(Path("run", "weights", "last.safetensors"))
    assert torch.equal(before["conv1.weight"], after["conv1.weight"])  # at a learning rate of 0


def test_a_file_gives_its_network_too(fastiseat, other):
    result = fastiseat("train", *DRY, "--init", other / BEST)
    assert result.code == 0, result
    planned = json.loads(result.out)["config"]["network"]
    assert (planned["arch"], planned["variant"]) == ("wrn-10-1", "common")
    assert result.err == f"--arch wrn-10-1 --variant common: that of {other / BEST}\n"


def test_weights_that_come_with_the_package(fastiseat):
    result = fastiseat("train", *DRY, "--init", "digits-iseat")
    assert (result.code, result.err) == (0, "--arch small --variant released: that of digits-iseat\n")
    assert json.loads(result.out)["config"]["network"]["init"] == "digits-iseat"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arch", "wrn-10-1"], "--variant common"),
        (["--variant", "common"], "--arch wrn-10-1"),
        (["--arch", "WRN10-1", "--variant", "common"], ""),
    ],
)
def test_what_is_given_is_not_taken(fastiseat, other, words, said):
    result = fastiseat("train", *DRY, "--init", other / BEST, *words)
    assert result.code == 0, result
    assert result.err == (f"{said}: that of {other / BEST}\n" if said else "")


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (["--arch", "small"], "arch"),
        (["--arch", "wrn-16-1"], "arch"),
        (["--variant", "released"], "variant"),
    ],
)
def test_what_contradicts_the_weights_is_refused(fastiseat, other, words, fields):
    for more in (["--dry-run"], ["--out", "run"]):
        complaint = fastiseat("train", *SHORT, "--init", other, *words, *more).complaint
        assert f"they must agree in {fields}" in complaint
    assert not Path("run").exists()


def test_settings_of_a_file_are_given_too(fastiseat, other):
    Path("settings.json").write_text(json.dumps({"network": {"init": str(other)}}))
    planned = json.loads(fastiseat("train", *DRY, "--config", "settings.json").out)["config"]["network"]
    assert (planned["arch"], planned["init"]) == ("wrn-10-1", str(other / BEST))
    Path("settings.json").write_text(json.dumps({"network": {"arch": "small", "init": str(other)}}))
    assert "must agree in arch" in fastiseat("train", *DRY, "--config", "settings.json").complaint


def test_a_run_is_resumed_by_the_same_command(fastiseat, other):
    words = ("train", *SHORT, "--init", other, "--out", "run")
    assert fastiseat(*words).code == 0
    assert fastiseat(*words, "--resume").code == 0


def test_a_file_that_is_missing(fastiseat):
    complaint = fastiseat("train", *SHORT, "--init", "missing.pt", "--out", "run").complaint
    assert "missing.pt: no such file" in complaint
    assert not Path("run").exists()


def test_a_folder_without_weights(fastiseat):
    Path("empty").mkdir()
    for flag in ("--init", "--standard"):
        complaint = fastiseat("train", *SHORT, flag, "empty", "--method", "hat", "--out", "run").complaint
        assert f"empty holds no {BEST}: give a run that finished an epoch, or a file" in complaint


def test_the_standard_network_of_a_run(fastiseat, other):
    result = fastiseat("train", *SHORT, "--method", "hat", "--standard", other, "--out", "run")
    assert result.code == 0, result
    assert flat(f"--standard {other}: the run's best weights, {other / BEST}") in flat(result.out)
    stored = json.loads(Path("run", "config.json").read_text())["config"]
    assert stored["objective"]["standard"] == str(other / BEST)
    assert stored["network"]["arch"] == "small"


@pytest.mark.parametrize("flag", ["--init", "--standard"])
def test_a_choice_that_a_file_leaves_is_said(fastiseat, flag):
    models = [build("small", variant="common", in_channels=1) for _ in range(2)]
    state, ema = map(export_state_dict, models)
    torch.save({"state_dict": state, "ema": ema, "arch": "small", "variant": "common"}, "w.pt")
    result = fastiseat(
        "train", *SHORT, flag, "w.pt", "--method", "hat" if flag == "--standard" else "at", "--out", "run"
    )
    assert result.code == 0, result
    assert flat("weights taken from 'state_dict', others are in 'ema': entry='ema' takes those") in flat(
        result.out
    )
    assert flat("fastiseat export makes a file of it") in flat(result.out)


def test_an_untold_variant_is_said_and_can_be_given(fastiseat):
    torch.save(build("prn18", in_channels=1).state_dict(), "w.pt")
    result = fastiseat("train", *DRY, "--init", "w.pt")
    assert json.loads(result.out)["config"]["network"]["variant"] == "common"
    assert "--arch prn18 --variant common: that of w.pt\n" in result.err
    assert "does not tell the variant of prn18 and is taken for 'common'" in result.err
    result = fastiseat("train", *DRY, "--init", "w.pt", "--variant", "released")
    assert json.loads(result.out)["config"]["network"]["variant"] == "released"
    assert "is taken for 'released'" in result.err


def test_eval_and_export_say_it_and_take_the_other(fastiseat):
    state, ema = (export_state_dict(build("small", in_channels=1)) for _ in range(2))
    torch.save(
        {"state_dict": state, "ema": ema, "arch": "small", "variant": "released", "dataset": "digits"}, "w.pt"
    )
    line = "w.pt: weights taken from 'state_dict', others are in 'ema': entry='ema' takes those"
    assert line in fastiseat("export", "w.pt", "--to", "safetensors").out
    assert torch.equal(load_file("w.safetensors")["conv1.weight"], state["conv1.weight"])
    assert "note" not in fastiseat("export", "w.pt", "--to", "safetensors", "--entry", "ema", "--force").out
    assert torch.equal(load_file("w.safetensors")["conv1.weight"], ema["conv1.weight"])
    told = fastiseat("eval", "w.pt", "--attack", "clean")
    assert flat(line) in flat(told.out + told.err)
    told = fastiseat("eval", "w.pt", "--attack", "clean", "--entry", "ema", "--fresh")
    assert told.code == 0 and "others are in" not in told.out + told.err


def test_export_writes_a_normalisation_that_is_said(fastiseat):
    torch.save({"state_dict": export_state_dict(build("wrn-10-1"))}, "w.pt")
    assert fastiseat("export", "w.pt", "--to", "safetensors", "--mean", 0.5, "--std", 0.25).code == 0
    assert load_file("w.safetensors")["normalize.mean"].tolist() == [0.5] * 3
