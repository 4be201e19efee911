"""Plausible mistakes in AutoAttack and in who is searched when, one at a time: the tests see each."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from attacks import test_apgd, test_draws, test_fab, test_hyperplane, test_square
from evaluation import test_pursuit, test_withstand

from fastiseat.attacks import draws
from fastiseat.attacks.search import apgd, hyperplane, square
from fastiseat.attacks.search import square_l2 as bumps
from fastiseat.attacks.search.apgd import APGD
from fastiseat.attacks.search.fab import FAB
from fastiseat.attacks.search.square import Square
from fastiseat.evaluation.ensemble.batched_search import BatchedSearch, Steps
from fastiseat.evaluation.ensemble.evaluator import EnsembleEvaluator

Check = Callable[[pytest.MonkeyPatch], None]


def without_patch(check: Callable[[], object]) -> Check:
    return lambda _: (check(), None)[1]


def ascent(_: pytest.MonkeyPatch) -> None:
    for norm, loss in test_apgd.CASES:
        test_apgd.compare(norm=norm, loss=loss)


def boundary(_: pytest.MonkeyPatch) -> None:
    for norm in ("linf", "l2"):
        test_fab.compare(norm=norm, iterations=15)


def squares(_: pytest.MonkeyPatch) -> None:
    for norm in ("linf", "l2"):
        test_square.compare(norm=norm, queries=60, rows=(0,))


first_rise = without_patch(test_apgd.check_first_rise)
no_image = without_patch(test_withstand.check_nan)
targets = test_withstand.check_targets
nan_free = without_patch(partial(test_hyperplane.test_out_of_reach_it_goes_as_far_as_the_borders_let, "l2", 1.5))
slots = without_patch(test_pursuit.pinned)
repeats = without_patch(partial(test_pursuit.test_what_is_found_beyond_the_last_step_does_not_count, 4))
judge = without_patch(test_pursuit.check_judge)
half = without_patch(test_withstand.check_half)
passes = without_patch(test_withstand.test_half_precision_searches_once_and_full_precision_all_of_it)
words = without_patch(test_draws.test_every_place_has_words_of_its_own)

MUTANTS: list[tuple[str, Any, str, str, str, Check]] = [
    ("it never goes back to the best point", APGD, "step", 'torch.where(back, now["best_x"], x)', "x", ascent),
    (
        "at the best point it goes on by the last gradient",
        APGD,
        "step",
        'torch.where(back, now["best_gradient"], gradient)',
        "gradient",
        ascent,
    ),
    ("the first step has momentum", APGD, "_moved", 'now["clock"] == 1', 'now["clock"] == 0', ascent),
    ("the ball of the iterates is twice as large", APGD, "_moved", 'now["eps"]', '2 * now["eps"]', ascent),
    (
        "momentum is that of the step, unprojected",
        APGD,
        "_moved",
        "ball.project(images, ahead, eps)",
        "ahead",
        ascent,
    ),
    ("the first step size is eps", APGD, "start", '2 * given["eps"]', 'given["eps"]', ascent),
    ("a halving right before counts for nothing", APGD, "_checked", '~now["halved"] & ', "", ascent),
    ("it never looks at the best loss", APGD, "_checked", 'stuck, now["halved"]', 'True, now["halved"]', ascent),
    ("rises are never forgotten", APGD, "_checked", '0.0, now["rises"]', 'now["rises"], now["rises"]', ascent),
    (
        "the best loss is compared with the first",
        APGD,
        "_checked",
        "is_check | (clock == 0)",
        "clock == 0",
        ascent,
    ),
    (
        "the first rise is against the start",
        apgd,
        "_remembered",
        "torch.where(first, 0.0, loss)",
        "loss",
        first_rise,
    ),
    ("the start rises", apgd, "_remembered", " & ~first", "", ascent),
    ("checks come one later", apgd, "_checks", "at = size\n", "at = size + 1\n", ascent),
    ("it leans to the image the wrong way", FAB, "step", "(far_x / (far", "(far_image / (far", boundary),
    ("it does not retreat", FAB, "step", "images + (x - images) * _BETA", "x", boundary),
    ("how far is not asked", FAB, "step", "found = wrong & ", "found = wrong | ", boundary),
    (
        "the image's plane is that of the iterate",
        FAB,
        "step",
        "lead + (w * (images - x)).flatten(1).sum(1)",
        "lead",
        boundary,
    ),
    ("rooms are mixed up", hyperplane, "toward", "(slope > 0, at, 1 - at)", "(slope > 0, 1 - at, at)", boundary),
    (
        "an infinite reach times no speed",
        hyperplane,
        "toward",
        "torch.finfo(reach.dtype).max",
        "torch.inf",
        nan_free,
    ),
    ("everything is kept", Square, "step", 'margin < state["best_margin"]', "margin < torch.inf", squares),
    ("squares shrink a query early", Square, "side_at", "clock - 1", "clock", squares),
    ("squares reach the end", square, "first", "size - side)", "size - side + 1)", squares),
    ("squares are put on the last try", Square, "_square", '"best_x"', '"x"', squares),
    ("the same square every time", Square, "_words", 'state["clock"]', 'state["clock"] * 0', squares),
    ("the mass of the windows is lost", bumps, "moved", "(left + mass**2)", "left", squares),
    (
        "the window that loses comes last",
        bumps,
        "moved",
        "torch.where(gains, new, torch.where(loses, 0.0, delta))",
        "torch.where(loses, 0.0, torch.where(gains, new, delta))",
        squares,
    ),
    ("hills have no holes", bumps, "bump", "hill - hole", "hill", squares),
    ("the round is no part of the place", draws, "draw", ") + round_", ")", words),
    ("the seed's upper half is lost", draws, "draw", "_host_mix(seed)", "_host_mix(seed % 2**32)", words),
    ("no confirmation", BatchedSearch, "_confirmed", "places[~right.cpu().numpy()]", "places", judge),
    ("what was denied stays found", BatchedSearch, "_confirmed", "at[right], False", "at[right], True", judge),
    (
        "a new sample finds the old one's state",
        BatchedSearch,
        "_start",
        "if tensor.dim():",
        "if name in FIXED[:-1]:",
        slots,
    ),
    ("a new sample has the old one's age", BatchedSearch, "_fill", "slots.age[places] = 0", "pass", slots),
    (
        "all rounds are the first",
        BatchedSearch,
        "_start",
        "rows, slots.round[places]",
        "rows, slots.round[places] * 0",
        slots,
    ),
    ("the last round is left out", BatchedSearch, "_dismiss", "round_ + 1 < self", "round_ + 2 < self", slots),
    (
        "the last step is left out",
        BatchedSearch,
        "_dismiss",
        "self._steps.search.length",
        "self._steps.search.length - 1",
        slots,
    ),
    (
        "a sample broken at the end ends twice",
        BatchedSearch,
        "_dismiss",
        "np.setdiff1d(spent, broken)",
        "spent",
        slots,
    ),
    (
        "fewer slots are other people's",
        BatchedSearch,
        "_shrink",
        "np.resize(taken, size)",
        "np.arange(size)",
        slots,
    ),
    (
        "repeats go on beyond the end",
        Steps,
        "__call__",
        'before["clock"] < self',
        'before["clock"] < 9 + self',
        repeats,
    ),
    (
        "half precision is believed",
        EnsembleEvaluator,
        "_batched_search",
        "judge=self._judge",
        "judge=self._passes",
        half,
    ),
    (
        "half precision spares a part",
        EnsembleEvaluator,
        "_run_part",
        "if broken or not only_found:",
        "if True:",
        passes,
    ),
    (
        "the unlikeliest class first",
        EnsembleEvaluator,
        "_clean",
        "descending=True)[:, 1:]",
        "descending=False)[:, :-1]",
        test_withstand.check_targets,
    ),
    (
        "the next batch has the last one's targets",
        EnsembleEvaluator,
        "_victims",
        "(0, index)",
        "(0, index % 4)",
        test_withstand.check_targets,
    ),
]


def plant(patch: pytest.MonkeyPatch, owner: Any, name: str, old: str, new: str) -> None:
    """Compile a function of a class or module anew, with its one ``old`` made ``new``."""
    function = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, "the mutant fits the source no more"
    namespace: dict[str, Any] = {}
    source = "from __future__ import annotations\n" + source.replace(old, new)
    exec(compile(source, f"<{name}>", "exec"), namespace)
    patch.setattr(function, "__code__", namespace[name].__code__)


@pytest.mark.parametrize(
    ("owner", "name", "old", "new", "check"), [row[1:] for row in MUTANTS], ids=[row[0] for row in MUTANTS]
)
def test_the_tests_see(
    owner: Any, name: str, old: str, new: str, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, owner, name, old, new)
    with pytest.raises(AssertionError):
        check(monkeypatch)


@pytest.mark.parametrize("check", list(dict.fromkeys(row[-1] for row in MUTANTS)))
def test_unchanged_they_pass(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch)
