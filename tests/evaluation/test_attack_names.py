"""What attacks are called, and that a part of AutoAttack alone is what it is within it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from searching import curved, images_of
from unanswered import short  # noqa: F401 (a fixture)

import fastiseat
from fastiseat.errors import UserError
from fastiseat.evaluation import EnsembleAttack, EnsembleState, Evaluator, any_attack_named, attack_named
from fastiseat.evaluation.ensemble.ensembles import ensemble_named
from fastiseat.evaluation.samples import Samples
from fastiseat.names import ALSO_CALLED, ATTACKS, AUTOATTACK, attack_called

WEAK = "aa-torchattacks"


@pytest.mark.parametrize("name", ["autoattack", "auto-attack", "AutoAttack", "Auto-Attack", "AA", "aa"])
def test_names_of_the_standard(name: str) -> None:
    assert any_attack_named(name, eps=0.1) == EnsembleAttack(name="aa", eps=0.1)


@pytest.mark.parametrize("name", [*ATTACKS, *ALSO_CALLED])
def test_any_case(name: str) -> None:
    assert any_attack_named(name.upper(), eps=0.1) == any_attack_named(name, eps=0.1)
    assert attack_called(attack_called(name)) == attack_called(name) in ATTACKS


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("autoatack", "autoattack"),
        ("auto_attack", "auto-attack"),
        ("AutoAttack+", "autoattack"),
        ("apgd", "apgd-t or apgd-ce"),
        ("apgd-dlr", "apgd-t"),
        ("fab", "fab-t"),
        ("sqare", "square"),
        ("aa-t", "aa"),
        ("attack", "autoattack"),
    ],
)
def test_the_weak_one_is_never_meant(name: str, meant: str) -> None:
    for named in (attack_named, any_attack_named):
        with pytest.raises(UserError, match=f"did you mean .*{meant}") as refused:
            named(name, eps=0.1)
        assert WEAK not in str(refused.value)


def test_unless_it_is_asked_for() -> None:
    with pytest.raises(UserError, match=f"did you mean {WEAK}"):
        any_attack_named("torchattacks", eps=0.1)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("part", AUTOATTACK)
def test_a_part_alone_is_that_of_the_whole(part: str, norm: str) -> None:
    """On all samples: within ``aa`` it has those alone that the parts before it have left."""
    model, images = curved(), images_of(12)
    with torch.no_grad():
        labels = model(images).argmax(1)
    labels[0] = (labels[0] + 1) % 5
    eps = {"linf": 0.1, "l2": 0.4}[norm]
    alone = fastiseat.evaluate(model, images, labels, [part], eps=eps, norm=norm, seed=3)[part]  # type: ignore[arg-type]
    whole = ensemble_named("aa", norm=norm, num_classes=5, seed=3)
    only = replace(whole, parts=tuple(each for each in whole.parts if each.name == part))
    ensemble_state = EnsembleState.fresh(12)
    attack = EnsembleAttack(name="aa", eps=eps, norm=norm)  # type: ignore[arg-type]
    Evaluator(model).run_ensemble(Samples(images, labels), attack, only, ensemble_state, seed=3)
    assert [("clean", part, "")[number] for number in ensemble_state.broken_by] == list(alone.broken_by)
    assert alone.broken_by[0] == "clean" and part in alone.broken_by


@pytest.mark.parametrize("classes", [2, 3, 5, 10])
@pytest.mark.parametrize("part", AUTOATTACK)
def test_few_classes_are_told_of_where_they_matter(part: str, classes: int) -> None:
    whole, alone = (ensemble_named(name, norm="linf", num_classes=classes) for name in ("aa", part))
    assert alone.parts == tuple(each for each in whole.parts if each.name == part)
    told = {
        "apgd-ce": [],
        "apgd-t": [note.replace("apgd-t and fab-t", "apgd-t") for note in whole.notes],
        "fab-t": [note.replace("apgd-t and fab-t", "fab-t") for note in whole.notes if "fab-t" in note],
        "square": [],
    }
    assert list(alone.notes) == told[part]
    with pytest.raises(UserError, match=f"{part} on a network of 1 class: there is no wrong class"):
        ensemble_named(part, norm="linf", num_classes=1)


def test_an_eps_is_asked_for_by_the_name_that_was_given() -> None:
    model, images, labels = curved(), images_of(2), torch.zeros(2, dtype=torch.int64)
    assert fastiseat.evaluate(model, images, labels, ["Clean"]).keys() == {"clean"}
    with pytest.raises(UserError, match="attacks=AutoAttack: it needs an ε"):
        fastiseat.evaluate(model, images, labels, ["AutoAttack"])
