"""APGD beside the authors' own from the same starting point: every iterate, the best loss and who is found."""

from __future__ import annotations

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from searching import (
    EPS,
    LOGGER,
    NORMS,
    OneByOne,
    State,
    advance,
    begin,
    curved,
    given_to,
    images_of,
    in_float64,
    inputs_of,
    joined,
)
from torch import Tensor, nn

from fastiseat.attacks.losses import losses_of
from fastiseat.attacks.search.apgd import APGD

CASES = [(norm, loss) for norm in NORMS for loss in ("ce", "dlr-t")]
COUNT = 12
# A kink of the loss turns a difference of the last bit into one of the seventh digit.
TOLERANCE = {"linf": 1e-12, "l2": 1e-6}


def theirs(model: nn.Module, state: State, *, norm: str, loss: str, n_iter: int) -> tuple[Tensor, Tensor, Tensor]:
    """Their iterates (n_iter + 1, m, C, H, W), best losses and which samples they don't break."""
    common = {"n_iter": n_iter, "norm": NORMS[norm], "eps": float(state["eps"]), "logger": LOGGER}
    made = APGDAttack_targeted if loss == "dlr-t" else APGDAttack
    attack = made(model, **common)
    attack.y_target = state["target"]
    asked = inputs_of(model)
    with in_float64():
        attack.init_hyperparam(state["images"])
        _, right, best, _ = attack.attack_single_run(state["images"], state["labels"], x_init=state["x"])
    return torch.stack(asked), best, right


def ours(search: APGD, state: State, model: nn.Module) -> tuple[Tensor, State]:
    asked = inputs_of(model)
    state = advance(search, state, model)
    return torch.stack(asked), state


def compare(*, norm: str, loss: str, iterations: int = 100, seed: int = 0, eps: float | None = None) -> Tensor:
    """How often each sample's step was halved; AssertionError where they differ."""
    search = APGD(norm=norm, loss=loss, iterations=iterations)
    given = given_to(curved(seed=seed), images_of(COUNT, seed=seed), eps=EPS[norm] if eps is None else eps)
    state = begin(search, given)
    mine, end = ours(search, state, curved(seed=seed))
    asked, best, right = theirs(curved(seed=seed), state, norm=norm, loss=loss, n_iter=iterations)
    assert mine.shape == asked.shape
    torch.testing.assert_close(mine, asked, atol=TOLERANCE[norm], rtol=0)
    torch.testing.assert_close(end["best_loss"], best, atol=10 * TOLERANCE[norm], rtol=0)
    assert end["found"].equal(~right.bool())
    return (2 * given["eps"] / end["step_size"]).log2()


@pytest.mark.parametrize("iterations", [10, 100])
@pytest.mark.parametrize(("norm", "loss"), CASES)
def test_it_is_the_authors(norm: str, loss: str, iterations: int) -> None:
    halvings = [compare(norm=norm, loss=loss, iterations=iterations, seed=seed) for seed in range(3)]
    assert len(torch.cat(halvings).unique()) > 1, "a test in which all steps shrink alike shows little"


@pytest.mark.parametrize("norm", NORMS)
def test_it_finds_whom_the_authors_find(norm: str) -> None:
    for eps in (EPS[norm] / 8, EPS[norm] / 4):
        compare(norm=norm, loss="ce", eps=eps)


@pytest.mark.parametrize(("norm", "loss"), CASES)
def test_every_sample_has_a_clock_of_its_own(norm: str, loss: str) -> None:
    """Samples that join 7 and 29 steps later take the same way as by themselves."""
    compare_clocks(norm=norm, loss=loss)


def compare_clocks(*, norm: str = "linf", loss: str = "ce") -> None:
    search, model = APGD(norm=norm, loss=loss), OneByOne(curved())
    given = given_to(model, images_of(9), eps=EPS[norm])
    thirds = [{name: tensor[n::3] if tensor.dim() else tensor for name, tensor in given.items()} for n in range(3)]
    alone = [advance(search, begin(search, third), model) for third in thirds]
    state = advance(search, begin(search, thirds[0]), model, 7)
    state = advance(search, joined(state, begin(search, thirds[1])), model, 22)
    state = advance(search, joined(state, begin(search, thirds[2])), model, search.length - 29)
    for third, steps in enumerate((0, 7, 22)):
        state = advance(search, state, model, steps)
        rows = slice(3 * third, 3 * third + 3)
        assert state["clock"][rows].eq(search.length).all()
        for name in ("x", "best_x", "best_loss", "step_size"):
            torch.testing.assert_close(state[name][rows], alone[third][name], atol=1e-12, rtol=0)
        assert state["found"][rows].equal(alone[third]["found"])


def test_when_it_looks_back() -> None:
    ends, windows = zip(*APGD(loss="ce").checks, strict=True)
    assert ends == (22, 41, 57, 70, 80, 87, 93, 99)
    assert windows == (22, 19, 16, 13, 10, 7, 6, 6)
    assert APGD(loss="ce", iterations=10).checks == ((2, 2), *((at, 1) for at in range(3, 11)))


@pytest.mark.parametrize("norm", NORMS)
def test_it_starts_on_the_ball(norm: str) -> None:
    given = given_to(curved(), 0.5 + 0 * images_of(20), eps=0.1)
    starts = [begin(APGD(norm=norm, loss="ce", stage=stage), given)["x"] - 0.5 for stage in (0, 1)]
    starts.append(begin(APGD(norm=norm, loss="ce"), given | {"round": given["round"] + 1})["x"] - 0.5)
    for start in starts:
        flat = start.flatten(1)
        far = flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)
        torch.testing.assert_close(far, torch.full_like(far, 0.1))
    assert all(not starts[0].equal(other) for other in starts[1:])


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_found_is_adversarial(norm: str) -> None:
    model, search = curved(), APGD(norm=norm, loss="ce", iterations=30)
    eps = EPS[norm] / 4
    given = given_to(model, images_of(30), eps=eps)
    end = advance(search, begin(search, given), model)
    found, moved = end["found"], (end["x_adv"] - given["images"]).flatten(1)
    assert 3 < found.sum() < 30
    assert (model(end["x_adv"]).argmax(1) != given["labels"]).equal(found)
    assert moved[~found].eq(0).all()
    assert ((moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)) <= eps + 1e-12).all()
    assert end["x_adv"].min() >= 0 and end["x_adv"].max() <= 1


def test_the_targeted_loss_is_that_of_the_paper() -> None:
    z, y, t = torch.tensor([[4.0, 1.0, 3.0, 2.0, 0.0]]), torch.tensor([0]), torch.tensor([2])
    assert losses_of("dlr-t", z, y, t) == pytest.approx((3 - 4) / (4 - (2 + 1) / 2))
    assert losses_of("margin-t", z, y, t) == -1
    assert losses_of("margin", z, y, t) == -1
    assert losses_of("ce", z, y, t) == pytest.approx(float(z.logsumexp(1) - 4), rel=1e-6)


def test_the_first_loss_rises_where_it_is_positive() -> None:
    """Whatever that of the start was: so it is in the authors' code."""
    check_first_rise()


def check_first_rise() -> None:
    search, model = APGD(loss="ce"), curved()
    given = given_to(model, images_of(COUNT), eps=0.2)
    best = advance(search, begin(search, given), model)["best_x"]
    state = advance(search, begin(search, given) | {"x": best, "last_x": best}, model, 2)
    assert (state["last_loss"] < state["best_loss"]).sum() > 2, "they have gone down from the best point"
    assert state["rises"].eq(1).all()
    targeted = APGD(loss="dlr-t")
    state = advance(targeted, begin(targeted, given | {"eps": given["eps"] / 40}), model, 2)
    assert (state["last_loss"] < 0).sum() > 2
    assert state["rises"].equal((state["last_loss"] > 0).double())
