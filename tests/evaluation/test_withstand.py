"""An ensemble on samples: verdicts are the sample's own, true, and the same after an interrupt."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from searching import OneByOne, State, curved, images_of
from torch import Tensor, nn

from fastiseat.attacks.search.apgd import APGD
from fastiseat.attacks.search.fab import FAB
from fastiseat.attacks.search.square import Square
from fastiseat.evaluation import EnsembleAttack, EnsembleState, Evaluator
from fastiseat.evaluation.ensemble.batched_search import BatchedSearch
from fastiseat.evaluation.ensemble.ensembles import Ensemble, Part
from fastiseat.evaluation.samples import Samples

COUNT = 21
EPS = {"linf": 0.035, "l2": 0.14}
Broken = npt.NDArray[np.int64]


def short(norm: str, *, queries: int = 25, targets: int = 3) -> Ensemble:
    """Every part of AutoAttack, a few steps of each."""
    return Ensemble(
        name="short",
        parts=(
            Part(name="apgd-ce", search=APGD(loss="ce", norm=norm, iterations=3)),
            Part(name="apgd-t", search=APGD(loss="dlr-t", norm=norm, iterations=5, stage=1), rounds=targets),
            Part(name="fab-t", search=FAB(norm=norm, iterations=6), rounds=targets),
            Part(name="square", search=Square(norm=norm, queries=queries, stage=3)),
        ),
    )


def mixed(norm: str) -> Ensemble:
    """The weakest first, so that each breaks somebody."""
    ce, _, fab, square = short(norm).parts
    at_target = Part(name="apgd-t", search=APGD(loss="dlr-t", norm=norm, iterations=1, stage=1), rounds=3)
    searches = {"fab-t": FAB(norm=norm, iterations=2), "square": Square(norm=norm, queries=6, stage=3)}
    weaker = (replace(part, search=searches[part.name]) for part in (square, fab))
    return Ensemble(name="mixed", parts=(*weaker, at_target, ce))


def samples_of(model: nn.Module, count: int = COUNT, *, dtype: torch.dtype = torch.float64) -> Samples:
    """Some of them labelled wrongly."""
    images = images_of(count, seed=4).to(dtype)
    with torch.no_grad():
        labels = model(images).argmax(1)
    labels[::6] = (labels[::6] + 1) % 5
    return Samples(images, labels)


def network() -> nn.Module:
    """Whose answers are the same to the last bit in any batch."""
    return OneByOne(curved())


def run(
    norm: str,
    *,
    batch_size: int = 8,
    engine: str = "eager",
    ensemble_state: EnsembleState | None = None,
    on_sample: Callable[..., None] = lambda *_: None,
    eps: float | None = None,
) -> EnsembleState:
    model = network()
    ensemble_state = ensemble_state or EnsembleState.fresh(COUNT)
    attack = EnsembleAttack(name="short", eps=EPS[norm] if eps is None else eps, norm=norm)  # type: ignore[arg-type]
    evaluator = Evaluator(model, engine=engine, batch_size=batch_size, say=pytest.fail)
    evaluator.run_ensemble(samples_of(model), attack, mixed(norm), ensemble_state, on_sample=on_sample)
    return ensemble_state


@pytest.mark.parametrize("norm", EPS)
def test_verdicts_do_not_depend_on_the_batch_size_nor_the_engine(norm: str) -> None:
    expected = run(norm, batch_size=100).broken_by
    assert len(set(expected.tolist())) > 3, "a test in which one part breaks all shows little"
    assert (expected == -1).sum() > 2
    for batch_size in (1, 8):
        assert np.array_equal(run(norm, batch_size=batch_size).broken_by, expected), batch_size
    assert np.array_equal(run(norm, batch_size=8, engine="tape").broken_by, expected)


class StopError(Exception):
    """An interrupt."""


@pytest.mark.parametrize("patience", [1, 2, 5, 9, 15, 24])
def test_an_interrupted_run_goes_on_where_it_was(patience: int) -> None:
    kept: list[EnsembleState] = []

    def on_sample(_part: Part, ensemble_state: EnsembleState) -> None:
        kept.append(copy.deepcopy(ensemble_state))
        if len(kept) == patience:
            raise StopError

    with pytest.raises(StopError):
        run("linf", on_sample=on_sample)
    before = copy.deepcopy(kept[-1])
    after = run("linf", ensemble_state=kept[-1])
    assert np.array_equal(after.broken_by, run("linf").broken_by)
    settled = before.broken_by >= 0
    assert np.array_equal(after.broken_by[settled], before.broken_by[settled])


def test_a_finished_run_searches_no_more() -> None:
    ensemble_state = run("linf")
    done, calls = copy.deepcopy(ensemble_state), []
    run("linf", ensemble_state=ensemble_state, on_sample=lambda *_: calls.append(None))
    assert calls == []
    assert np.array_equal(ensemble_state.broken_by, done.broken_by)
    assert (done.part[done.unbroken] == 4).all()


@pytest.mark.parametrize("engine", ["eager", "tape"])
@pytest.mark.parametrize("norm", EPS)
def test_what_is_called_broken_is(norm: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_broken(norm, engine, monkeypatch)


def check_broken(norm: str, engine: str, patch: pytest.MonkeyPatch) -> None:
    """AssertionError where a broken sample's image is beyond ε, no image, or classified correctly."""
    images: dict[int, Tensor] = {}
    honest = BatchedSearch._confirmed

    def confirmed(self: BatchedSearch, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        kept = honest(self, places)
        for place in kept:
            images[int(self._slots.row[place])] = self._state["x_adv"][place].clone()
        return kept

    patch.setattr(BatchedSearch, "_confirmed", confirmed)
    broken_by = run(norm, engine=engine).broken_by
    rows = np.flatnonzero(broken_by > 0)
    assert sorted(images) == rows.tolist()
    model = network()
    clean, labels = samples_of(model).take(rows, torch.device("cpu"))
    x_adv = torch.stack([images[int(row)] for row in rows])
    moved = (x_adv - clean).flatten(1)
    assert (model(x_adv).argmax(1) != labels).all()
    assert ((moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)) <= EPS[norm] + 1e-12).all()
    assert x_adv.min() >= 0 and x_adv.max() <= 1


def test_no_eps_breaks_nobody() -> None:
    broken_by = run("linf", eps=0.0).broken_by
    assert set(broken_by.tolist()) == {-1, 0}
    assert (broken_by[::6] == 0).all()


class Lying(nn.Module):
    """In half precision every answer is another one."""

    def __init__(self) -> None:
        super().__init__()
        self.model = curved().float()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits.roll(1, 1) if torch.is_autocast_enabled(x.device.type) else logits


@pytest.mark.parametrize(("eps", "half"), [(0.0, "bf16"), (0.01, "bf16"), (0.01, "fp16")])
def test_half_precision_is_not_believed(eps: float, half: str) -> None:
    check_half(eps, half)


def check_half(eps: float = 0.0, half: str = "bf16") -> None:
    """AssertionError where what half precision says breaks a sample that full precision finds robust."""
    found = {}
    for precision in ("full", half):
        model, ensemble_state = Lying(), EnsembleState.fresh(COUNT)
        samples = samples_of(model, dtype=torch.float32)
        attack = EnsembleAttack(name="short", eps=eps)
        Evaluator(model, precision=precision, batch_size=8).run_ensemble(
            samples, attack, short("linf"), ensemble_state
        )
        found[precision] = ensemble_state.unbroken
    assert found["full"].sum() > 2
    assert np.array_equal(found[half], found["full"])


class Rooted(nn.Module):
    """Its gradient is NaN wherever it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.model = curved()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits + (0 * x.flatten(1).sum(1, keepdim=True)).sqrt()


@pytest.mark.parametrize("norm", EPS)
def test_no_image_is_no_adversarial_image(norm: str) -> None:
    check_nan(norm)


def check_nan(norm: str = "l2") -> None:
    """AssertionError where a NaN of the gradient breaks a sample that nothing within ε breaks."""
    model, ensemble_state = Rooted(), EnsembleState.fresh(COUNT)
    attack = EnsembleAttack(name="short", eps=1e-6, norm=norm)  # type: ignore[arg-type]
    Evaluator(model).run_ensemble(samples_of(model), attack, short(norm), ensemble_state)
    assert set(ensemble_state.broken_by.tolist()) == {-1, 0}


class Watching(Lying):
    """Notes the precision of each of its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.half: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.half.append(torch.is_autocast_enabled(x.device.type))
        logits: Tensor = self.model(x)
        return logits


def test_half_precision_searches_once_and_full_precision_all_of_it() -> None:
    model, ensemble_state = Watching(), EnsembleState.fresh(1)
    images = images_of(1).float()
    samples = Samples(images, model(images).argmax(1))
    model.half.clear()
    ensemble = replace(short("linf"), parts=short("linf").parts[:2])
    attack = EnsembleAttack(name="short", eps=0.0)
    Evaluator(model, precision="bf16").run_ensemble(samples, attack, ensemble, ensemble_state)
    assert ensemble_state.unbroken.all()
    assert model.half == [False] + [True] * 4 + [False] * (4 + 3 * 6)


def test_words_differ_from_part_to_part_and_round_to_round(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[tuple[int, Tensor]] = []
    honest = APGD.start

    def start(self: APGD, given: State) -> State:
        state = honest(self, given)
        starts.extend((int(row), x) for row, x in zip(given["index"], state["x"] - given["images"], strict=True))
        return state

    monkeypatch.setattr(APGD, "start", start)
    run("linf", eps=0.001, batch_size=100)
    of_one = [x for row, x in starts if row == 2]
    assert len(of_one) == 4, "APGD-CE and three targets"
    assert len({x.numpy().tobytes() for x in of_one}) == 4


def test_targets_are_the_wrong_classes_the_likeliest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    check_targets(monkeypatch)


def check_targets(patch: pytest.MonkeyPatch) -> None:
    """AssertionError where a round drives at another class, for a sample of any batch."""
    driven: dict[tuple[int, int], int] = {}
    honest = FAB.start

    def start(self: FAB, given: State) -> State:
        places = (given[name].tolist() for name in ("index", "round", "target"))
        driven.update({(row, round_): target for row, round_, target in zip(*places, strict=True)})
        return honest(self, given)

    patch.setattr(FAB, "start", start)
    ensemble_state = run("linf", eps=0.001, batch_size=4)
    model = network()
    images, labels = samples_of(model).take(np.arange(COUNT), torch.device("cpu"))
    order = model(images).argsort(1, descending=True)
    for row in np.flatnonzero(ensemble_state.unbroken):
        assert order[row, 0] == labels[row]
        assert [driven[int(row), round_] for round_ in range(3)] == order[row, 1:4].tolist()
