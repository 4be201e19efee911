"""What the names of ensembles stand for, and what a network of few classes makes of them."""

from __future__ import annotations

import pytest

from fastiseat.attacks.search.apgd import APGD
from fastiseat.attacks.search.fab import FAB
from fastiseat.attacks.search.square import Square
from fastiseat.errors import UserError
from fastiseat.evaluation.ensemble.ensembles import Part, ensemble_named


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_standard(norm: str) -> None:
    ensemble = ensemble_named("aa", norm=norm, num_classes=10, seed=5)
    assert ensemble.parts == (
        Part(name="apgd-ce", search=APGD(loss="ce", norm=norm, iterations=100, seed=5, stage=0), rounds=1),
        Part(name="apgd-t", search=APGD(loss="dlr-t", norm=norm, iterations=100, seed=5, stage=1), rounds=9),
        Part(name="fab-t", search=FAB(norm=norm, iterations=100), rounds=9),
        Part(name="square", search=Square(norm=norm, queries=5000, seed=5, stage=3), rounds=1),
    )
    assert ensemble.notes == ()


def test_that_of_torchattacks() -> None:
    parts = ensemble_named("aa-torchattacks", norm="linf", num_classes=100).parts
    assert [part.rounds for part in parts] == [1, 99, 99, 1]
    assert [part.search.length for part in parts] == [11, 11, 10, 5001]
    assert parts[3].search.rescaled  # type: ignore[attr-defined]


def test_many_classes_have_nine_targets() -> None:
    ensemble = ensemble_named("aa", norm="linf", num_classes=1000)
    assert [part.rounds for part in ensemble.parts] == [1, 9, 9, 1]
    assert ensemble.notes == ()


@pytest.mark.parametrize(("classes", "loss"), [(2, "margin-t"), (3, "margin-t"), (4, "dlr-t"), (9, "dlr-t")])
def test_few_classes_are_noted(classes: int, loss: str) -> None:
    ensemble = ensemble_named("aa", norm="linf", num_classes=classes)
    assert [part.rounds for part in ensemble.parts] == [1, classes - 1, classes - 1, 1]
    assert ensemble.parts[1].search.loss == loss  # type: ignore[attr-defined]
    about_loss = [note for note in ensemble.notes if "DLR loss needs 4 classes" in note]
    about_targets = [note for note in ensemble.notes if f"{classes - 1} target classes for 9" in note]
    assert (len(about_loss), len(about_targets)) == (int(classes < 4), 1)
    assert len(ensemble.notes) == len(about_loss) + 1
    assert all("\n" not in note for note in ensemble.notes)


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(UserError, match="unknown ensemble of attacks 'ab'; did you mean fab-t or aa"):
        ensemble_named("ab", norm="linf", num_classes=10)
    with pytest.raises(UserError, match="aa on a network of 1 class: there is no wrong class"):
        ensemble_named("aa", norm="linf", num_classes=1)
