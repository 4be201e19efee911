"""``fastiseat eval``: of a run, of a file, and of what is neither."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastiseat.models import build, export_state_dict, metadata
from fastiseat.names import ATTACKS


def test_a_run_is_evaluated_as_it_was_trained(evaluate, run):
    found = evaluate(run, "--attack", "clean", "pgd", "--steps", 10)
    (expected,) = (row for row in json.loads((run / "results.json").read_text()) if row["weights"] == "best")
    assert found["weights"] == str(run / "weights" / "best.safetensors")
    assert found["network"] == "small (released variant, 1 channels, 10 classes)"
    assert (found["dataset"], found["split"]) == ("digits", "test")
    assert {row["attack"]: row["accuracy"] for row in found["attacks"]} == {
        name: expected["accuracy"][name] for name in ("clean", "pgd-10")
    }
    clean, pgd = found["attacks"]
    assert (clean["eps"], clean["steps"]) == (0, 0)
    assert (pgd["eps"], pgd["steps"], pgd["step_size"], pgd["restarts"]) == (0.15, 10, 0.0375, 1)
    assert pgd["correct"] == round(pgd["accuracy"] * 60)
    assert pgd["total"] == 60


def test_a_file_and_its_run_agree(evaluate, run):
    of_run = evaluate(run, "--weights", "last")
    of_file = evaluate(run / "weights" / "last.safetensors")
    assert [row["attack"] for row in of_run["attacks"]] == ["clean", "fgsm", "pgd-50"]
    for row in (*of_run["attacks"], *of_file["attacks"]):
        assert row.pop("seconds") > 0
        assert row.pop("saved").endswith(".json")
    assert of_run == of_file


def test_flags_outrank_what_the_file_says(evaluate, run):
    found = evaluate(run, "--eps", "8/255", "--step-size", "1/255", "--steps", 3, "--restarts", 2)
    _, fgsm, pgd = found["attacks"]
    assert (fgsm["eps"], fgsm["step_size"], fgsm["steps"]) == (8 / 255, 8 / 255, 1)
    assert (pgd["eps"], pgd["step_size"], pgd["attack"], pgd["restarts"]) == (8 / 255, 1 / 255, "pgd-3", 2)


def test_the_training_split(evaluate, run):
    found = evaluate(run, "--attack", "clean", "--split", "train")
    assert (found["split"], found["attacks"][0]["total"]) == ("train", 100)


def test_the_table_is_plain_text_with_the_same_numbers(fastiseat, evaluate, run):
    result = fastiseat("eval", run, "--attack", "clean", "fgsm")
    assert (result.code, result.err) == (0, "")
    assert "\x1b" not in result.out
    clean, fgsm = evaluate(run, "--attack", "clean", "fgsm")["attacks"]
    rows = [line.replace("│", " ").split() for line in result.out.splitlines()]
    assert ["clean", *4 * "-", f"{clean['correct']}/60", f"{100 * clean['accuracy']:.2f}%"] in rows
    assert [
        "fgsm",
        "0.15",
        "L∞",
        "0.15",
        "1",
        f"{fgsm['correct']}/60",
        f"{100 * fgsm['accuracy']:.2f}%",
    ] in rows


def test_a_path_with_brackets_is_printed_as_it_is(fastiseat, run, tmp_path):
    shutil.copytree(run, tmp_path / "[/x]")
    result = fastiseat("eval", "[/x]", "--attack", "clean")
    assert result.code == 0
    assert "[/x]/weights/best.safetensors on digits" in result.out


@pytest.fixture
def files(tmp_path):
    """Weight files of every kind that goes wrong."""
    small, wide = build("small", in_channels=1), build("small", in_channels=3, num_classes=100)
    state = export_state_dict(small)
    save_file(state, "untold.safetensors", metadata(small.spec))
    save_file(state, "bad-eps.safetensors", metadata(small.spec, dataset="digits", eps="a lot"))
    save_file(state, "nan-eps.safetensors", metadata(small.spec, dataset="digits", eps="nan"))
    save_file(state, "elsewhere.safetensors", metadata(small.spec, dataset="digitz", eps="0.1"))
    save_file(export_state_dict(wide), "wide.safetensors", metadata(wide.spec, dataset="digits", eps="0.1"))
    save_file({"a": torch.zeros(1)}, "unknown.safetensors")
    torch.save(state, "no-variant.pt")
    (tmp_path / "garbage.pt").write_bytes(b"garbage")
    (tmp_path / "garbage.safetensors").write_bytes(b"garbage")
    (tmp_path / "empty").mkdir()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("untold.safetensors --dataset digits", "the weights file does not tell eps: give --eps"),
        ("untold.safetensors --eps 0.1", "the weights file does not tell dataset: give --dataset"),
        ("bad-eps.safetensors", "the weights file tells eps 'a lot', which is no number: give --eps"),
        ("nan-eps.safetensors", "eps=nan: must be a finite number"),
        ("elsewhere.safetensors", "unknown data set 'digitz'; did you mean digits?"),
        ("wide.safetensors", "wide.safetensors is for 3 channels and 100 classes, digits has 1 and 10: give the"),
        ("unknown.safetensors", "keys (a) are those of no known network"),
        ("garbage.pt", "garbage.pt: not a weight file"),
        ("garbage.safetensors", "garbage.safetensors: not a safetensors file"),
        ("missing.pt", "missing.pt: no such file"),
        ("empty", "empty holds no weights/best.safetensors: give a run that finished an epoch, or a file"),
        (300 * "x", "File name too long"),
    ],
)
def test_files_that_can_not_be_evaluated(fastiseat, files, words, complaint):
    assert complaint in fastiseat("eval", *words.split()).complaint


def test_what_a_file_does_not_tell_can_be_given(evaluate, files):
    assert evaluate("untold.safetensors", "--eps", "0.1", "--dataset", "digits", "--attack", "fgsm")
    assert evaluate("bad-eps.safetensors", "--attack", "clean")["attacks"][0]["attack"] == "clean"
    words = ("no-variant.pt", "--variant", "common", "--dataset", "digits", "--attack", "clean")
    assert "common variant" in evaluate(*words)["network"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--attack pgd --steps 0", "steps=0: must be at least 1; the attack of no steps is called clean"),
        ("--step-size 0", "step_size=0 with eps=0.15: the attack would never move"),
        ("--attack pgd --restarts 0", "restarts=0: must be at least 1"),
        ("--eps 8", "eps=8.0: is beyond the pixel values, 0 … 1; 8 of 255 levels are written 8/255"),
        ("--eps -0.1", "eps=-0.1: must be at least 0"),
        ("--batch-size 0", "batch_size=0: must be at least 1"),
        ("--attack", "--attack: name one or more"),
        ("--weights", "--weights: name one or more"),
        ("--norm l2", "--norm l2: give --eps; the ε that a weights file tells is that of the L∞ ball"),
        ("--attack pgd-0", "steps=0: must be at least 1"),
        (
            "--backend official",
            "it has aa and its parts apgd-ce, apgd-t, fab-t, square, not fgsm, pgd; give",
        ),
        ("--engine graph", "engine=graph: it records on a cuda device"),
        ("--attack pdg", "unknown attack 'pdg'; did you mean pgd"),
        ("--dataset digit", "unknown data set 'digit'; did you mean digits?"),
        ("--device cuda:99", "device 'cuda:99': this machine shows"),
        ("--variant common", "which variant='common' contradicts"),
    ],
)
def test_values_that_can_not_be_meant_are_refused(fastiseat, run, words, complaint):
    assert complaint in fastiseat("eval", run, *words.split()).complaint


def test_help_and_list_tell_of_every_attack(fastiseat):
    text = fastiseat("eval", "--help").out
    assert all(re.search(rf"\b{name}\b", text) for name in (*ATTACKS, "autoattack"))
    found = {row["attack"]: row for row in json.loads(fastiseat("list", "attacks", "--json").out)}
    assert {name: row["what it is"] for name, row in found.items()} == ATTACKS
    assert found["aa"]["also called"] == ["autoattack", "auto-attack"]
    assert [name for name, row in found.items() if row["default"]] == ["clean", "fgsm", "pgd"]


@pytest.mark.parametrize(
    ("words", "named"),
    [("--norm l1", "l2"), ("--weights averaged", "last"), ("--eps 1/0", "--eps"), ("--jsn", "--json")],
)
def test_usage_errors_name_what_is_near(fastiseat, run, words, named):
    result = fastiseat("eval", run, *words.split())
    assert result.code == 2
    assert named in result.err


def test_weights_are_those_of_the_file(evaluate, run, tmp_path):
    """A network that says 0 always is right as often as there are zeros."""
    state = load_file(run / "weights" / "best.safetensors")
    state["linear.weight"].zero_()
    state["linear.bias"].copy_(torch.eye(10)[0])
    save_file(state, tmp_path / "zero.safetensors", metadata(build("small", in_channels=1).spec, dataset="digits"))
    found = evaluate("zero.safetensors", "--attack", "clean", "pgd", "--eps", "1")
    assert [row["correct"] for row in found["attacks"]] == [6, 6]
