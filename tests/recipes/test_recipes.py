"""The named settings are complete, and settings that contradict each other are refused."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from fastiseat import methods
from fastiseat.config import AWP, PGD, SGD, Config, Data, Network, Objective, Schedule
from fastiseat.errors import UserError
from fastiseat.pipelines.data import datasets
from fastiseat.recipes import DATASETS, METHODS, OWN_DATA, check, recipe

NAMED = [f"{kind}:somewhere" if kind in OWN_DATA else kind for kind in DATASETS]
ALL = [(dataset, method) for dataset in NAMED for method in METHODS]


@pytest.mark.parametrize(
    ("method", "lam", "gamma"),
    [("none", 0, 0), ("at", 0, 0), ("at-awp", 0, 0.007), ("lsi", 0.1, 0), ("iseat", 0.1, 0.007)],
)
def test_what_each_method_is_made_of(method, lam, gamma):
    expected = Config(
        data=Data(dataset="digits"),
        network=Network(arch="small"),
        objective=Objective(method=method, lam=lam),
        attack=PGD(eps=0.15, step_size=0.0375),
        awp=AWP(gamma=gamma),
        schedule=Schedule(epochs=20),
    )
    assert recipe("digits", method) == expected


@pytest.mark.parametrize("method", METHODS)
def test_digits_keep_their_ball_and_their_epochs(method):
    config = recipe("digits", method)
    assert (config.attack.eps, config.attack.step_size, config.schedule.epochs) == (0.15, 0.0375, 20)
    padding = METHODS[method].num_views - 1  # two views have to differ
    assert config.data == Data(dataset="digits", crop_padding=padding)


@pytest.mark.parametrize("method", ["trades", "mart", "slore-mart"])
def test_what_trades_and_mart_bring_to_any_data_set(method):
    config, mart = recipe("digits", method), method != "trades"
    assert config.attack == PGD(eps=0.15, step_size=0.0375, bn_mode="eval", noise=0.001)
    assert config.optimizer == SGD(lr=0.01 if mart else 0.1, weight_decay=3.5e-3 if mart else 2e-4)
    assert config.objective == Objective(method=method, lam=0, beta=5.0 if mart else None)
    assert methods.from_config(config.objective).beta == (5.0 if mart else 6.0)


def test_an_option_comes_to_the_method_that_has_it():
    ablation = Objective(method="lsi", lam=0.3, weighting="top", distance="kl", smoothness="lsi")
    expected = methods.ISEAT(lam=0.3, weighting="top", distance="kl", smoothness="lsi")
    assert methods.from_config(ablation) == expected
    assert methods.from_config(Objective(method="trades", lam=0, beta=1.5)) == methods.TRADES(beta=1.5)


def test_the_default_is_iseat_on_digits():
    assert recipe() == recipe("digits", "iseat")


def with_its_files(config):
    needs = METHODS[config.objective.method].needs
    if needs == "standard":
        return replace(config, objective=replace(config.objective, standard=Path("standard.safetensors")))
    return replace(config, data=replace(config.data, extra=Path("extra.npz"))) if needs == "extra" else config


@pytest.mark.parametrize(("dataset", "method"), ALL)
def test_every_recipe_is_free_of_contradictions(dataset, method):
    config = with_its_files(recipe(dataset, method))
    assert check(config) is config
    assert (config.data.dataset, config.objective.method) == (dataset, method)


def test_the_table_of_methods_tells_their_units():
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z][a-z-]*)` \|.*?\| (\d+) \|", page, re.MULTILINE)
    assert len(rows) >= 12
    assert {name: int(units) for name, units in rows} == {name: METHODS[name].units for name, _ in rows}


def test_names_agree_with_what_they_name():
    assert set(METHODS) == set(methods.METHODS)
    assert set(DATASETS) == {*datasets.DATASETS, *OWN_DATA}


@pytest.mark.parametrize(
    ("dataset", "method", "message"),
    [
        ("digit", "at", "unknown data set 'digit'; did you mean digits"),
        ("npz", "at", "own data is named imagefolder:PATH or npz:PATH"),
        ("digits:x", "at", "own data is named imagefolder:PATH or npz:PATH"),
        ("digits", "isaet", "unknown method 'isaet'; did you mean iseat"),
        ("digits", "AT", "unknown method 'AT'; did you mean at"),
        ("digits", "trade", "unknown method 'trade'; did you mean trades"),
        ("digits", "???", "unknown method '...'; known: at, at-awp, at-rice, awp-wu, .*iseat, lsi, mart"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(dataset, method, message):
    with pytest.raises(UserError, match=message):
        recipe(dataset, method)


def with_options(method, **options):
    return replace(recipe(), objective=Objective(method=method, lam=0, **options), awp=AWP(gamma=0))


def with_method(method, *, lam=0.0, gamma=0.0, attack=None):
    config = replace(recipe(), objective=Objective(method=method, lam=lam), awp=AWP(gamma=gamma))
    return config if attack is None else replace(config, attack=attack)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (with_method("at", lam=0.1), "lam=0.1: method at has no stability term; .* or method lsi or iseat"),
        (with_method("none", lam=0.1), "method none has no stability term"),
        (with_method("at", gamma=0.007), "gamma=0.007: method at has no weight perturbation; .* or method at-awp"),
        (with_method("lsi", lam=0.1, gamma=0.007), "method lsi has no weight perturbation; .* or method iseat"),
        (with_method("none", gamma=0.007), "method none has no weight perturbation"),
        (with_method("at", attack=PGD(eps=0.1, step_size=0)), "step_size=0 with eps=0.1: .* would never move"),
        (with_options("at", beta=1.0), "beta=1.0: method at has no such option; methods .*trades.*mart.* have"),
        (with_options("trades", weighting="top"), "weighting=top: method trades .*; methods lsi, iseat have"),
        (with_options("mart", distance="kl"), "distance=kl: method mart has no such option; methods lsi, iseat"),
        (with_options("at-awp", smoothness="lsi"), "smoothness=lsi: method at-awp has no such option"),
        (with_method("trades", gamma=0.01, lam=0.1), "lam=0.1: method trades has no stability term"),
        (with_method("at-rice", attack=PGD(eps=0.1, step_size=0)), "step_size=0 with eps=0.1"),
        (replace(recipe(), data=Data(dataset="digitz")), "unknown data set"),
        (with_method("isaet"), "unknown method"),
        (recipe("cifar10", "rst"), "method rst: .* --extra names: .* without any take method trades"),
        (with_method("consistency"), "views of an image are the same without augmentation; add --crop-padding 4"),
        (
            replace(recipe(), objective=Objective(standard=Path("x"))),
            "standard=x: method iseat has no such option; methods hat have",
        ),
    ],
)
def test_contradictions_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        check(config)


@pytest.mark.parametrize(
    "config",
    [
        with_method("iseat"),  # both parts off: AT, at ISEAT's name, as an ablation
        with_method("none", attack=PGD(eps=0.1, step_size=0)),
        with_method("at", attack=PGD(eps=0, step_size=0)),
        with_method("trades", gamma=0.01),
        with_options("lsi", weighting="top", distance="kl", smoothness="lsi"),
        with_options("slore-mart", beta=0.0),
        recipe("cifar10", "hat"),  # whose standard network can be trained first
    ],
)
def test_an_ablation_is_no_contradiction(config):
    assert check(config) is config
