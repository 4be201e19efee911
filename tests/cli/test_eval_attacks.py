"""The attacks of ``fastiseat eval``, by either backend, and what is said of their worth."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fastiseat.cli.eval import attacker as eval_attacker
from fastiseat.cli.eval import target as eval_target
from fastiseat.evaluation.verdicts import records
from fastiseat.models import build, export_state_dict, metadata
from fastiseat.names import AUTOATTACK
from fastiseat.pipelines.data import datasets
from fastiseat.pipelines.protocol.base import DataSet, Split


def robust(row):
    return records.read(Path(row["saved"])).robust


@pytest.mark.usefixtures("short")
def test_attacks_of_each_kind_in_both_balls(evaluate, run):
    for norm, eps in (("linf", 0.05), ("l2", 1.5)):
        names = ("clean", "fgsm", "pgd-20", "cw-20", "aa-torchattacks", "aa")
        rows = evaluate(run, "--attack", *names, "--norm", norm, "--eps", eps, "--subset", 40)["attacks"]
        assert [row["attack"] for row in rows] == list(names)
        assert {(row["norm"], row["eps"]) for row in rows[1:]} == {(norm, eps)}
        clean, *attacked, aa = map(robust, rows)
        assert all((found <= clean).all() for found in (*attacked, aa))
        assert aa.sum() <= min(found.sum() for found in attacked)


@pytest.mark.usefixtures("short")
def test_an_ensembles_parts(fastiseat, evaluate, run):
    words = (run, "--attack", "aa", "--subset", 20, "--eps", 0.05)
    (row,) = evaluate(*words)["attacks"]
    assert [part["part"] for part in row["parts"]] == ["clean", "apgd-ce", "apgd-t", "fab-t", "square"]
    counts = [part["robust"] for part in row["parts"]]
    assert counts == sorted(counts, reverse=True) and counts[-1] == row["correct"]
    assert row["notes"] == [] and row["steps"] is None
    out = fastiseat("eval", *words).out
    assert "aa, part by part" in out and "apgd-ce" in out


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_parts_alone(fastiseat, evaluate, run, norm):
    words = (run, "--norm", norm, "--eps", 0.15 if norm == "linf" else 1.5, "--subset", 20, "--no-sanity")
    whole, *parts = evaluate(*words, "--attack", "AutoAttack", *AUTOATTACK)["attacks"]
    assert [row["attack"] for row in parts] == list(AUTOATTACK)
    assert all("parts" not in row and row["notes"] == [] and row["correct"] < 20 for row in parts)
    assert robust(parts[0]).sum() == whole["parts"][1]["robust"], "the first has all of them before it in both"
    assert all((robust(whole) <= robust(row)).all() for row in parts[:1])
    result = fastiseat("eval", *words, "--attack", "auto-attack", "APGD-T")
    assert [line.split(":")[0] for line in result.err.splitlines()] == ["aa", "apgd-t"]
    assert all("its verdicts are in" in line for line in result.err.splitlines())


def test_a_part_alone_by_the_authors_code(fastiseat, evaluate, run):
    words = (run, "--attack", "apgd-ce", "--subset", 8, "--eps", 0.15, "--no-sanity")
    (ours,), (theirs,) = (evaluate(*words, *more)["attacks"] for more in ((), ("--backend", "official")))
    assert (theirs["attack"], theirs["backend"]) == ("apgd-ce", "official")
    assert abs(ours["correct"] - theirs["correct"]) <= 1
    (row,) = evaluate(ours["saved"], theirs["saved"], "--compare")["comparison"]["attacks"]
    assert row["attack"] == "apgd-ce" and row["agreement"] > 0.8
    assert "apgd-ce (official)" in fastiseat("eval", *words, "--backend", "official").out


@pytest.fixture
def few_classes(monkeypatch):
    """A network of three classes, and its data set."""
    model = build("small", in_channels=1, num_classes=3)
    told = metadata(model.spec, dataset="three", eps="0.1")
    save_file(export_state_dict(model), "three.safetensors", told)
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
    split = Split(images=images, labels=np.arange(12) % 3)
    data = DataSet(name="three", num_classes=3, train=split, test=split)
    monkeypatch.setattr(datasets, "load", lambda name, **_: data)
    return "three.safetensors"


@pytest.mark.usefixtures("short")
def test_fewer_than_four_classes(fastiseat, few_classes):
    result = fastiseat("eval", few_classes, "--attack", "aa")
    assert "aa: apgd-t: its DLR loss needs 4 classes, the network has 3" in result.out
    complaint = fastiseat("eval", few_classes, "--attack", "aa", "--backend", "official").complaint
    assert complaint.startswith("--backend official: the loss of its apgd-t needs 4 classes, the network has 3")
    assert "apgd-t: its DLR loss needs 4 classes" in fastiseat("eval", few_classes, "--attack", "apgd-t").out
    assert "apgd-t" in fastiseat("eval", few_classes, "--attack", "apgd-t", "--backend", "official").complaint
    assert fastiseat("eval", few_classes, "--attack", "apgd-ce", "--backend", "official").code == 0


@pytest.mark.usefixtures("short")
def test_half_precision_never_finds_more_robust(evaluate, run, monkeypatch):
    monkeypatch.setattr(eval_attacker, "precision_for_amp", lambda device: "bf16")
    names = ("--attack", "clean", "pgd-5", "aa", "--subset", 40, "--eps", 0.05)
    full, half = (evaluate(run, *names, *more)["attacks"] for more in ((), ("--amp",)))
    assert [row["precision"] for row in half] == ["full", "bf16", "bf16"]
    for one, other in zip(full, half, strict=True):
        assert not (robust(other) & ~robust(one)).any()


def test_a_device_without_half_precision(fastiseat, run, monkeypatch):
    monkeypatch.setattr(eval_attacker, "precision_for_amp", lambda device: "full")
    result = fastiseat("eval", run, "--amp", "--attack", "pgd-2", "--no-sanity")
    assert result.err == "--amp: this CPU has no instructions for half precision, and computes in float32\n"
    assert "its verdicts are in" in fastiseat("eval", run, "--attack", "pgd-2", "--no-sanity").err


def test_restarts_stay_in_full_precision(evaluate, run, monkeypatch):
    monkeypatch.setattr(eval_attacker, "precision_for_amp", lambda device: "bf16")
    (row,) = evaluate(run, "--amp", "--attack", "pgd-2", "--restarts", 2)["attacks"]
    assert row["precision"] == "full"


def test_engines_agree(evaluate, run):
    words = (run, "--attack", "pgd-3", "--subset", 20, "--batch-size", 10, "--fresh")
    eager, tape = (evaluate(*words, "--engine", engine)["attacks"][0] for engine in ("eager", "tape"))
    assert eager["correct"] == tape["correct"]


def test_the_authors_code_agrees(fastiseat, evaluate, run):
    words = (run, "--attack", "aa", "--subset", 10, "--eps", 0.15, "--no-sanity")
    (ours,) = evaluate(*words)["attacks"]
    state, logger = torch.get_rng_state(), logging.getLogger("auto-attack")
    (theirs,) = evaluate(*words, "--backend", "official")["attacks"]
    assert torch.get_rng_state().equal(state)
    assert (logger.handlers, logger.propagate) == ([], True)
    assert theirs["backend"] == "official"
    assert [part["part"] for part in theirs["parts"]] == [part["part"] for part in ours["parts"]]
    assert abs(theirs["correct"] - ours["correct"]) <= 1
    (row,) = evaluate(ours["saved"], theirs["saved"], "--compare")["comparison"]["attacks"]
    assert row["agreement"] > 0.9
    shown = fastiseat("eval", run, "--attack", "aa", "--subset", 1, "--no-sanity", "--backend", "official")
    assert "aa (official)" in shown.out


def test_without_the_authors_code(fastiseat, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    result = fastiseat("eval", run, "--attack", "aa", "--backend", "official")
    assert result.complaint == "the authors' AutoAttack is not installed: pip install pyautoattack"


def test_the_checks_follow_the_attacks(fastiseat, evaluate, run, sanity):
    assert evaluate(run, "--attack", "clean")["sanity"] is None
    assert evaluate(run, "--no-sanity")["sanity"] is None
    assert sanity == []
    found = evaluate(run, "--eps", 0.1, "--seed", 3)["sanity"]
    assert [check["suspicious"] for check in found] == [False, True]
    assert sanity == [{"samples": 60, "eps": 0.1, "norm": "linf", "num_classes": 10, "seed": 3}]
    out = fastiseat("eval", run, "--eps", 0.1, "--seed", 3).out
    assert "can these attacks be believed?" in out
    assert "warning: square: it breaks what PGD spares" in out
    assert evaluate(run, "--eps", 0.1, "--seed", 3, "--attack", "clean")["sanity"] is None


def test_logits_that_are_no_numbers(fastiseat, run):
    file = run / "weights" / "best.safetensors"
    state = load_file(file)
    state["linear.bias"][0] = torch.nan
    save_file(state, "nan.safetensors", metadata(build("small", in_channels=1).spec, dataset="digits", eps="0.1"))
    for attack in ("clean", "pgd", "aa"):
        complaint = fastiseat("eval", "nan.safetensors", "--attack", attack).complaint
        assert complaint.startswith("the network's logits are not finite numbers on 60 of 60 images, the first of")
        assert not (run / "evaluations").exists()


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    "words", ["--attack clean", "--attack fgsm", "--attack pgd-2", "--attack aa", "--attack aa --backend official"]
)
def test_logits_that_are_no_numbers_in_a_later_batch(fastiseat, run, monkeypatch, words):
    image = torch.from_numpy(datasets.load("digits").test.images[57, :, :, 0]) / 255
    load = eval_target.models.load_model

    def spoilt(*words, **more):
        model = load(*words, **more)
        model.register_forward_hook(
            lambda _, inputs, logits: logits.masked_fill(
                (inputs[0] == image).flatten(1).all(1)[:, None], torch.inf
            )
        )
        return model

    monkeypatch.setattr(eval_target.models, "load_model", spoilt)
    result = fastiseat("eval", run, *words.split(), "--batch-size", 4)
    line = result.err.splitlines()[-1]
    assert result.code == 2
    assert "the network's logits are not finite numbers on 1 of 60 images, the first of them image 57, " in line
    assert not list(run.glob("evaluations/*"))


def test_networks_are_moved_to_channels_last(evaluate, run, monkeypatch):
    seen, made = [], eval_attacker.Evaluator
    monkeypatch.setattr(
        eval_attacker, "Evaluator", lambda model, **more: (seen.append(model), made(model, **more))[1]
    )
    evaluate(run, "--attack", "clean")
    kernel = seen[0].conv1.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
