"""An option reaches the methods that have it and is refused by all others: each field of the config, each method."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from torch import nn

from fastiseat import TrainStep, UserError
from fastiseat.config import AWP, PGD, SGD, Config, Objective, Schedule
from fastiseat.engine.settings import SCALARS, Settings
from fastiseat.methods import from_config
from fastiseat.pipelines.protocol.augmentation import Augmentation
from fastiseat.recipes import FINE_TUNING, METHODS, check, recipe
from fastiseat.schedule import scalars_of_step

OPTIONS = [field.name for field in fields(Objective) if field.name != "method"]
WITHOUT_AWP = [name for name, entry in METHODS.items() if entry.awp is None]
ROOT = Path(__file__).parents[2]


def another(kind: type[Any], name: str) -> Any:
    """A value that is not the field's default."""
    hint = get_type_hints(kind)[name]
    choices = [arg for arg in (hint, *get_args(hint)) if arg is not type(None)]
    default = getattr(kind(), name)
    if get_origin(hint) is Literal:
        return next(choice for choice in get_args(hint) if choice != default)
    for of_type, value in ((bool, not default), (int, 7), (float, 0.375), (Path, Path("some.file"))):
        if of_type in choices:
            return value
    raise AssertionError(f"{kind.__name__}.{name}: {hint}: what would another value be?")


def config_of(method: str) -> Config:
    """The recipe, with the files that it needs."""
    config, needs = recipe("digits", method), METHODS[method].needs
    if needs == "standard":
        return replace(config, objective=replace(config.objective, standard=Path("standard.file")))
    return replace(config, data=replace(config.data, extra=Path("extra.npz"))) if needs else config


def class_of(method: str) -> type[Any]:
    module, _, name = METHODS[method].home.partition(":")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_some_methods(option: str) -> None:
    assert any(option in entry.options for entry in METHODS.values())


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_options_are_what_its_class_and_the_config_share(method: str) -> None:
    assert set(METHODS[method].options) == set(OPTIONS) & {field.name for field in fields(class_of(method))}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_an_option_is_the_methods_or_refused(method: str, option: str) -> None:
    config, value = config_of(method), another(Objective, option)
    changed = replace(config, objective=replace(config.objective, **{option: value}))
    if option in METHODS[method].options:
        assert check(changed) is changed
        made = from_config(changed.objective, standard=nn.Linear(1, 1))
        assert option == "standard" or getattr(made, option) == value
        return
    having = ", ".join(name for name, entry in METHODS.items() if option in entry.options)
    for refusing in (check, lambda whole: from_config(whole.objective, standard=nn.Linear(1, 1))):
        with pytest.raises(UserError, match=f"^{option}={value}: method {method} has no ") as refused:
            refusing(changed)
        assert option == "lam" or f"methods {having} have" in str(refused.value)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_takes_no_number_that_its_method_has_not(method: str) -> None:
    objective = config_of(method).objective
    settings = Settings(
        method=from_config(objective, standard=nn.Linear(1, 1)),
        attack=PGD(),
        awp=AWP(),
        optimizer=SGD(),
        augmentation=Augmentation(),
    )
    for name in (name for name, owner in SCALARS.items() if owner == "method"):
        if name in METHODS[method].options:
            assert getattr(settings.set({name: 0.375}).method, name) == 0.375
        else:
            with pytest.raises(
                UserError, match=f"^{name}=0.375: method {class_of(method).__name__} has no {name}$"
            ):
                settings.set({name: 0.375})


def changed_part(config: Config, part: str, name: str) -> Config:
    value = another(type(getattr(config, part)), name)
    return replace(config, **{part: replace(getattr(config, part), **{name: value})})


@pytest.mark.parametrize("name", [field.name for field in fields(AWP) if field.name != "gamma"])
@pytest.mark.parametrize("method", METHODS)
def test_how_weights_are_perturbed_is_refused_where_they_never_are(method: str, name: str) -> None:
    changed = changed_part(config_of(method), "awp", name)
    if method not in WITHOUT_AWP:
        assert check(changed) is changed
        return
    with pytest.raises(UserError, match=f"^{name}=.*: method {method} has no weight perturbation; leave it out"):
        check(changed)


@pytest.mark.parametrize("method", WITHOUT_AWP)
def test_so_is_when(method: str) -> None:
    with pytest.raises(UserError, match=f"^awp_from=0.375: method {method} has no weight perturbation"):
        check(changed_part(config_of(method), "schedule", "awp_from"))


@pytest.mark.parametrize(
    "name", [field.name for field in fields(PGD) if field.name not in ("eps", "step_size", "norm")]
)
def test_how_to_attack_is_refused_where_nothing_is_attacked(name: str) -> None:
    """But for the ball, which the network is tested in."""
    at = changed_part(config_of("at"), "attack", name)
    assert check(at) is at
    with pytest.raises(UserError, match=f"^{name}=.*: method none attacks nothing"):
        check(changed_part(config_of("none"), "attack", name))


@pytest.mark.parametrize(
    ("schedule", "momentum", "message"),
    [
        ({"lr_shape": "cosine", "lr_warmup": 0.1}, 0.9, "lr_warmup=0.1: lr_shape cosine has none; .* onecycle"),
        ({"momentum_cycle": (0.9, 0.8)}, 0.9, r"momentum_cycle=\(0.9, 0.8\): lr_shape steps has none"),
        (
            {"lr_shape": "cosine", "lr_drops": (0.3,)},
            0.9,
            r"lr_drops=\(0.3,\): lr_shape cosine has none; .* steps",
        ),
        ({"lr_shape": "onecycle", "lr_factor": 0.2}, 0.9, "lr_factor=0.2: lr_shape onecycle has none; .* steps"),
        (
            {"lr_shape": "cosine", "lr_stages": (0.1, 0.2)},
            0.9,
            r"lr_stages=\(0.1, 0.2\): lr_shape cosine has none",
        ),
        (
            {"lr_shape": "onecycle"},
            0.5,
            "momentum=0.5: lr_shape onecycle moves it from 0.95 to 0.85 and back; .* None",
        ),
    ],
)
def test_what_a_schedule_would_pass_over_is_refused(schedule, momentum, message) -> None:
    config = replace(recipe(), schedule=Schedule(**schedule), optimizer=SGD(momentum=momentum))
    with pytest.raises(UserError, match=message):
        check(config)


@pytest.mark.parametrize(
    ("schedule", "momentum"),
    [
        ({"lr_shape": "onecycle", "lr_warmup": 0.1, "momentum_cycle": (0.9, 0.8)}, 0.9),
        ({"lr_shape": "onecycle", "momentum_cycle": None}, 0.5),
        ({"lr_shape": "cosine", "momentum_cycle": None}, 0.5),
    ],
)
def test_what_it_follows_is_not(schedule, momentum) -> None:
    config = replace(recipe(), schedule=Schedule(**schedule), optimizer=SGD(momentum=momentum))
    assert check(config) is config


@pytest.mark.parametrize("method", METHODS)
def test_another_shape_passes_over_the_recipes_own_drops(method: str) -> None:
    config = config_of(method)
    changed = replace(config, schedule=replace(config.schedule, lr_shape="cosine"))
    assert check(changed) is changed


@pytest.mark.parametrize("method", METHODS)
def test_lam_from_is_refused_where_there_is_no_lam(method: str) -> None:
    changed = changed_part(config_of(method), "schedule", "lam_from")
    if METHODS[method].stability:
        assert check(changed) is changed
        return
    with pytest.raises(UserError, match=f"^lam_from=0.375: method {method} has no stability term; leave it out$"):
        check(changed)


@pytest.mark.parametrize("method", METHODS)
def test_a_study_drops_the_learning_rate_whatever_the_methods_own_shape_is(method: str) -> None:
    config = FINE_TUNING["ablation"].change(config_of(method))
    assert check(config) is config
    assert [round(scalars_of_step(config, epoch, 0, 9).lr, 6) for epoch in (0, 19, 20, 39)] == [
        0.01,
        0.01,
        0.001,
        0.001,
    ]


def test_the_help_and_the_page_of_methods_name_every_one() -> None:
    helped = re.search(r'method: str = "iseat"\s+"""(.*?)"""', inspect.getsource(Objective), re.DOTALL)
    assert helped is not None
    named = set(re.findall(r"[a-z]+(?:-[a-z]+)*", helped[1]))
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([a-z][a-z-]*)` \|", page, re.MULTILINE))
    assert set(METHODS) <= named
    assert set(METHODS) <= rows


@pytest.mark.parametrize(
    ("method", "engine", "told"),
    [
        ("iseat", "eager", "overlap changes nothing: engine eager has one stream; engine graph has two"),
        ("iseat", "tape", "overlap changes nothing: engine tape has one stream; engine graph has two"),
        ("none", "eager", "overlap changes nothing: method Standard has no clean pass to run beside the other"),
    ],
)
def test_an_overlap_that_can_not_be_is_told(method: str, engine: str, told: str) -> None:
    said: list[str] = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    TrainStep(model, method=method, engine=engine, overlap=True, say=said.append)
    assert said == [told]
    TrainStep(model, method=method, engine=engine, say=said.append)
    assert said == [told]
