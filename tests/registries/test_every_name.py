"""Methods, options, augmentations and attacks: each name is taken, listed and in the help of what takes it.

That an option is refused by each method that lacks it is walked in ``tests/config/test_options_of_methods.py``;
optimizers, averages and perturbations, recorded and resumed, in ``tests/weights/test_state.py``.
"""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stdout, suppress
from dataclasses import fields
from functools import cache
from importlib import import_module
from typing import get_args

import pytest
import torch

from fastiseat.__main__ import main
from fastiseat.config import IDBH, Augment, Data, Objective
from fastiseat.fields import only
from fastiseat.kernels.idbh.policies import POLICIES
from fastiseat.methods import Method
from fastiseat.names import ATTACKS
from fastiseat.pipelines.protocol.augmentation import Augmentation
from fastiseat.recipes import METHODS, recipe


@cache
def told(*words: str) -> str:
    """What a command prints, in one line."""
    with redirect_stdout(io.StringIO()) as out, suppress(SystemExit):  # the parser's way out of help
        main(list(words))
    return " ".join(out.getvalue().replace("│", " ").split())


def is_named(name: str, text: str) -> bool:
    return bool(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_listed_explained_and_has_a_class(method: str) -> None:
    module, _, name = METHODS[method].home.partition(":")
    assert issubclass(getattr(import_module(module), name), Method)
    assert METHODS[method].summary and METHODS[method].units
    assert is_named(method, told("train", "--help")), "the help of --method names it"
    assert method in {row["method"] for row in json.loads(told("list", "methods", "--json"))}
    assert recipe(method=method).objective.method == method


@pytest.mark.parametrize("option", [field.name for field in fields(Objective) if field.name != "method"])
def test_an_option_names_its_methods(option: str) -> None:
    assert only(Objective)[option], "its annotation says Only(...), or every method takes it and few read it"
    assert set(only(Objective)[option]) <= METHODS.keys()


@pytest.mark.parametrize("name", get_args(Augment))
def test_an_augmentation_changes_images(name: str) -> None:
    data = Data(augment=name, flip=name == "standard", crop_padding=2 * (name == "standard"))
    how = Augmentation.of(data, seed=1)
    assert how.policy in (None, *POLICIES)
    images = torch.randint(256, (8, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    changed = how(images, torch.arange(8))
    assert changed.shape == (8, 3, 32, 32)
    assert changed.min() >= 0 and changed.max() <= 1
    assert not torch.equal(changed, images.permute(0, 3, 1, 2) / 255)
    assert torch.equal(changed, how(images, torch.arange(8))), "drawn by the image's number"


def test_every_policy_has_a_name() -> None:
    assert {name.removeprefix(IDBH) for name in get_args(Augment)} - {"standard"} == set(POLICIES)


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_listed_and_explained(attack: str) -> None:
    assert attack in {row["attack"] for row in json.loads(told("list", "attacks", "--json"))}
    assert is_named(attack, told("eval", "--help"))
