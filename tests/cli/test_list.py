"""``fastiseat list`` names what the settings can be, quickly and without torch."""

import json
import subprocess
import sys

import pytest
from cpu_time import children_seconds

from fastiseat.names.networks import ARCHS
from fastiseat.recipes import DATASETS, METHODS, OWN_DATA, recipe

KINDS = ("methods", "datasets", "recipes", "models", "attacks")


def rows(fastiseat, *words):
    result = fastiseat("list", *words, "--json")
    assert (result.code, result.err) == (0, "")
    return json.loads(result.out)


def test_methods_with_their_options_and_units(fastiseat):
    found = {row["method"]: row for row in rows(fastiseat, "methods")}
    assert list(found) == list(METHODS)
    assert [name for name, row in found.items() if row["default"]] == ["iseat"]
    assert found["iseat"]["options"] == ["--lam", "--weighting", "--distance", "--smoothness"]
    assert found["trades"]["options"] == ["--beta"]
    assert (found["trades"]["units"], found["mart-awp"]["units"], found["none"]["units"]) == (27, 32, 3)
    assert all(row["what it is"] == METHODS[name].summary for name, row in found.items())


def test_each_option_is_a_flag_of_train(fastiseat):
    text = fastiseat("train", "--help").out
    for row in rows(fastiseat, "methods"):
        assert all(option in text for option in row["options"])


def test_data_sets(fastiseat):
    found = {row["data set"].partition(":")[0]: row for row in rows(fastiseat, "datasets")}
    assert list(found) == list(DATASETS)
    assert {name for name, row in found.items() if ":" in row["data set"]} == set(OWN_DATA)
    assert (found["cifar10"]["arch"], found["cifar10"]["eps"], found["cifar10"]["epochs"]) == (
        "wrn-34-10",
        8 / 255,
        200,
    )
    assert [name for name, row in found.items() if row["default"]] == ["digits"]
    assert all(row["what it is"] for row in found.values())


@pytest.mark.parametrize("choice", [{}, {"augment": "idbh-cifar10-strong"}, {"extra": "FILE"}])
@pytest.mark.parametrize("dataset", ["digits", "cifar10", "npz:a.npz"])
def test_recipes_of_a_data_set(fastiseat, dataset, choice):
    words = [
        word for name, value in choice.items() for word in (f"--{name}", *([] if name == "extra" else [value]))
    ]
    found = {row["method"]: row for row in rows(fastiseat, "recipes", "--dataset", dataset, *words)}
    assert list(found) == list(METHODS)
    for name, row in found.items():
        config = recipe(dataset, name, **choice)
        assert row["awp gamma"] == config.awp.gamma
        assert (row["eps"], row["step size"]) == (config.attack.eps, config.attack.step_size)
        assert (row["epochs"], row["lr drops"]) == (config.schedule.epochs, list(config.schedule.lr_drops))
        assert (row["lr"], row["weight decay"]) == (config.optimizer.lr, config.optimizer.weight_decay)
        assert (row["lam"], row["beta"]) == (config.objective.lam, config.objective.beta)


def test_models(fastiseat):
    found = {row["arch"]: row["default for"] for row in rows(fastiseat, "models")}
    assert tuple(found) == ARCHS
    assert found["wrn-34-10"] == ["cifar10"]
    assert sorted(name for names in found.values() for name in names) == sorted(DATASETS)


LEVELS = {f"{levels / 255:.4g}" for levels in range(1, 17)}
"""What tables show as 8/255."""


@pytest.mark.parametrize("kind", KINDS)
def test_tables_fit_a_terminal(fastiseat, monkeypatch, kind):
    monkeypatch.setenv("COLUMNS", "80")
    result = fastiseat("list", kind)
    assert (result.code, result.err) == (0, "")
    assert max(map(len, result.out.splitlines())) <= 80
    assert "…" not in result.out
    words = set(result.out.split())
    for row in rows(fastiseat, kind):
        assert {f"{value:.4g}" for value in row.values() if type(value) in (int, float)} - LEVELS <= words
        assert next(iter(row.values())) in words


def test_unknown_names_are_refused(fastiseat):
    assert fastiseat("list", "colours").code == 2
    assert fastiseat("list").code == 2
    assert "did you mean cifar10" in fastiseat("list", "recipes", "--dataset", "cifar").complaint


def test_it_is_quick():
    times = []
    for _ in range(3):
        began = children_seconds()
        subprocess.run([sys.executable, "-m", "fastiseat", "list", "methods"], check=True, capture_output=True)
        times.append(children_seconds() - began)
    assert min(times) < 0.6


@pytest.mark.parametrize("words", [["methods"], ["recipes", "--json"]])
def test_it_loads_no_torch(words):
    listing = f"main({['list', *words]})"
    code = f"import sys\nfrom fastiseat.__main__ import main\n{listing}\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
