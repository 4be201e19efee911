"""``train --method hat`` trains the network that it compares with, where none is given."""

import json
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from tiny import SHORT

from fastiseat import UserError
from fastiseat.cli.train import standard as train_standard
from fastiseat.config import AWP, Objective
from fastiseat.recipes import check, recipe, standard_for
from fastiseat.run import loop

HAT = ("train", *SHORT, "--method", "hat", "--steps", 2)


def folders():
    return sorted(Path("standard").iterdir())


def config_of(run):
    return json.loads((run / "config.json").read_text())["config"]


def test_it_is_trained_first_and_once(fastiseat):
    first = fastiseat(*HAT, "--out", "one")
    assert (first.code, first.err) == (0, "")
    assert "none is given (--standard), so one is trained first, in " in first.out
    (folder,) = folders()
    plain = config_of(folder)
    assert plain["objective"]["method"] == "none"
    assert plain["optimizer"] == config_of(Path("one"))["optimizer"]
    weights = folder.resolve() / "weights" / "best.safetensors"
    assert config_of(Path("one"))["objective"]["standard"] == str(weights)
    before = weights.read_bytes()

    again = fastiseat(*HAT, "--out", "two", "--beta", 1, "--eps", 0.1)
    assert f"standard network: {weights}, trained before" in again.out
    assert (folders(), weights.read_bytes()) == ([folder], before)
    by_hand = fastiseat(*HAT, "--out", "three", "--beta", 1, "--eps", 0.1, "--standard", weights)
    assert "standard network" not in by_hand.out
    two, three = (Path(run, "weights", "last.safetensors").read_bytes() for run in ("two", "three"))
    assert two == three


@pytest.fixture
def planned(fastiseat, monkeypatch):
    """The folder that a command would train it in."""
    folders = []

    def note(arguments, plain, folder, **more):
        folders.append(folder)
        raise UserError("enough")

    monkeypatch.setattr(train_standard, "_train", note)

    def run(*words):
        fastiseat(*HAT, *words)
        return folders.pop()

    return run


def test_another_seed_network_or_data_has_another(planned, monkeypatch):
    one = planned()
    assert one.name.startswith("digits-small-s0-")
    assert one.parent == Path("runs", "standard").resolve()
    # What the defence alone is made of changes nothing.
    assert one == planned("--beta", 1, "--eps", 0.1, "--random-start", "--noise", 0, "--awp-gamma", 0.01)
    others = [
        planned(*words) for words in (("--seed", 1), ("--arch", "prn18"), ("--limit-train", 60), ("--lr", 0.1))
    ]
    tiny.install(monkeypatch, train=90)
    others.append(planned())
    assert len({one, *others}) == 6


def test_an_interrupted_one_goes_on(fastiseat, monkeypatch):
    whole = fastiseat(*HAT, "--epochs", 2, "--out", "whole/run")
    assert whole.code == 0
    finish = loop.finish_epoch

    def stop(run, row):
        finish(run, row)
        signal.raise_signal(signal.SIGTERM)

    words = (*HAT, "--epochs", 2, "--out", "parts/run")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "finish_epoch", stop)
        stopped = fastiseat(*words)
    assert stopped.code == 143
    assert "in the standard network's training, after a checkpoint; the same command goes on" in stopped.err
    assert not Path("parts", "run").exists()
    assert fastiseat(*words).code == 0
    files = [sorted(Path(parent).glob("**/*.safetensors")) for parent in ("whole", "parts")]
    assert len(files[0]) == 4
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


def test_a_dry_run_says_so(fastiseat):
    planned = json.loads(fastiseat(*HAT, "--dry-run").out)
    assert planned["trained_first"]["objective"]["method"] == "none"
    given = json.loads(fastiseat(*HAT, "--dry-run", "--standard", "digits-iseat").out)
    assert "trained_first" not in given
    assert "trained_first" not in json.loads(fastiseat("train", "--dry-run", "--batch-size", 50).out)


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "svhn", "tinyimagenet"])
def test_its_recipe_is_hats_without_the_defence(dataset):
    config = recipe(dataset, "hat")
    plain = standard_for(replace(config, objective=replace(config.objective, beta=9.0)))
    assert check(plain) is plain
    assert (plain.objective, plain.awp.gamma) == (Objective(method="none", lam=0.0), AWP(gamma=0.0).gamma)
    assert (plain.network, plain.optimizer, plain.schedule) == (config.network, config.optimizer, config.schedule)
    if dataset == "cifar10":
        shape = plain.schedule.lr_shape, plain.schedule.epochs, plain.optimizer.lr, plain.optimizer.nesterov
        assert shape == ("onecycle", 50, 0.21, True)
        assert re.fullmatch("prn18", plain.network.arch)
