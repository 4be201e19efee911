"""Square Attack beside the authors' own, which is given our random numbers: every image that the network is asked."""

from __future__ import annotations

import math

import pytest
import torch
from pyautoattack.square import SquareAttack
from searching import NORMS, State, advance, begin, curved, given_to, images_of, in_float64, inputs_of
from torch import Tensor, nn

from fastiseat.attacks.draws import draw
from fastiseat.attacks.losses import margins
from fastiseat.attacks.search import square_l2 as bumps
from fastiseat.attacks.search.square import Square, first

SMALL = {"linf": 0.02, "l2": 0.1}
# In the L2 ball what rounding leaves of a δ of 0 is divided by 1e-12, in their code and in ours.
TOLERANCE = {"linf": 1e-8, "l2": 1e-5}
SHAPE = (2, 11, 10)


class Told(SquareAttack):  # type: ignore[misc]
    """Theirs with random words from a list."""

    def __init__(self, words: list[int], **more: object) -> None:
        super().__init__(**more)
        self._words = iter(words)

    def _numbers(self, count: int) -> Tensor:
        return torch.tensor([next(self._words) for _ in range(count)]) * 2.0**-32

    def random_choice(self, shape: list[int]) -> Tensor:
        return torch.where(self._numbers(math.prod(shape)).view(shape) < 0.5, -1.0, 1.0)

    def random_int(self, low: int = 0, high: int = 1, shape: tuple[int, ...] = (1,)) -> Tensor:
        return (low + (high - low) * self._numbers(math.prod(shape)).view(shape)).long()

    def eta(self, s: int) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "rand", lambda shape: self._numbers(math.prod(shape)))
            return super().eta(s)


def wide(seed: int = 0) -> nn.Module:
    """So that no query breaks an image that the others are compared on."""
    return curved(seed=seed, shape=SHAPE, sharp=0.3)


def words_of(state: State, *, norm: str, queries: int) -> list[int]:
    channels, _, width = SHAPE
    first_count = channels * width if norm == "linf" else bumps.tiles_words(state["images"])
    each = (2 if norm == "linf" else 5) + channels
    place = state["index"], state["round"]
    words = []
    for clock in range(queries + 1):
        count = each if clock else first_count
        words += draw(*place, state["clock"] * 0 + clock, seed=0, stage=0, count=count).flatten().tolist()
    return words


def compare(*, norm: str, queries: int = 300, rescaled: bool = False, rows: tuple[int, ...] = (0, 1, 4)) -> None:
    """AssertionError where they differ on any of these samples, all of which ours attacks at once."""
    search = Square(norm=norm, queries=queries, rescaled=rescaled)
    given = given_to(wide(), images_of(5, shape=SHAPE), eps=SMALL[norm])
    model = wide()
    asked = inputs_of(model)
    end = advance(search, begin(search, given), model)
    assert not end["found"].any()
    for row in rows:
        one = {name: tensor[row : row + 1] if tensor.dim() else tensor for name, tensor in given.items()}
        words = words_of(begin(search, one), norm=norm, queries=queries)
        expected, best = theirs(one, words, norm=norm, queries=queries, rescaled=rescaled)
        torch.testing.assert_close(torch.stack([x[row] for x in asked]), expected, atol=TOLERANCE[norm], rtol=0)
        torch.testing.assert_close(end["best_x"][row], best, atol=TOLERANCE[norm], rtol=0)


def theirs(given: State, words: list[int], *, norm: str, queries: int, rescaled: bool) -> tuple[Tensor, Tensor]:
    model = wide()
    asked = inputs_of(model)
    eps = float(given["eps"])
    with in_float64():
        attack = Told(words, predict=model, norm=NORMS[norm], n_queries=queries, eps=eps, resc_schedule=rescaled)
        attack.init_hyperparam(given["images"])
        _, best = attack.attack_single_run(given["images"], given["labels"])
    return torch.cat(asked), best[0]


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_it_is_the_authors(norm: str, rescaled: bool) -> None:
    compare(norm=norm, rescaled=rescaled)


@pytest.mark.parametrize("queries", [5000, 10_000, 1000])
@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 64, 64), (1, 20, 12)])
def test_squares_shrink_when_theirs_do(queries: int, rescaled: bool, shape: tuple[int, int, int]) -> None:
    search, like = Square(queries=queries, rescaled=rescaled), torch.zeros(1, *shape)
    attack = SquareAttack(None, n_queries=queries, eps=0.1, resc_schedule=rescaled)
    tried = torch.arange(queries)
    for odd in (False, True):
        sides = search.side_at(tried + 1, like, odd=odd).tolist()
        expected = []
        for number in range(queries):
            side = max(round(math.sqrt(attack.p_selection(number) * shape[1] * shape[2])), 3 if odd else 1)
            side += odd and side % 2 == 0
            expected.append(min(side, *shape[1:]))
        assert sides == expected


@pytest.mark.parametrize("turned", [False, True])
def test_bumps_are_theirs(turned: bool) -> None:
    for side in range(1, 33):
        like = torch.zeros(1, 1, 40, 36, dtype=torch.float64)
        row, column = torch.tensor([40 - side]), torch.tensor([3])
        found = bumps.bump(row, column, torch.tensor([side]), torch.tensor([turned]), like)[0, 0]
        with in_float64():
            attack = Told([2**32 - 1 if turned else 0], predict=None, norm="L2", eps=1.0, device="cpu")
            expected = torch.zeros(40, 36)
            expected[40 - side :, 3 : 3 + side] = attack.eta(side)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_candidates_lie_in_the_ball_and_in_the_image(norm: str) -> None:
    model, images, eps = wide(), images_of(6, shape=SHAPE), 4 * SMALL[norm]
    asked = inputs_of(model)
    given = given_to(wide(), images, eps=eps)
    advance(Square(norm=norm, queries=150), begin(Square(norm=norm), given), model)
    for x in asked:
        moved = (x - images).flatten(1)
        assert x.min() >= 0 and x.max() <= 1
        assert ((moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)) <= eps + 1e-9).all()


def test_the_start_is_of_stripes() -> None:
    images = 0.5 + 0 * images_of(50, shape=SHAPE)
    x = begin(Square(), given_to(wide(), images, eps=0.1))["x"] - 0.5
    assert x[:, :, :1].expand_as(x).equal(x)
    torch.testing.assert_close(x.abs(), torch.full_like(x, 0.1))
    assert abs(x.mean()) < 0.02


@pytest.mark.parametrize("norm", NORMS)
def test_the_margin_never_rises_and_every_query_is_asked_once(norm: str) -> None:
    model, search = wide(), Square(norm=norm, queries=60)
    state = begin(search, given_to(wide(), images_of(4, shape=SHAPE), eps=2 * SMALL[norm]))
    asked, least = inputs_of(model), torch.full((4,), torch.inf, dtype=torch.float64)
    for query in range(search.length):
        tried = state["x"]
        state = advance(search, state, model, 1)
        assert len(asked) == query + 1
        least = torch.minimum(least, margins(wide()(tried), state["labels"]).detach())
        torch.testing.assert_close(state["best_margin"], least, atol=1e-12, rtol=0)
        torch.testing.assert_close(margins(wide()(state["best_x"]), state["labels"]), least, atol=1e-12, rtol=0)
    assert len(asked) == 61


def test_places_are_uniform_and_never_reach_the_end() -> None:
    word = draw(*(torch.arange(30_000),) * 3, seed=0, stage=0, count=1)[:, 0]
    places = first(word, torch.full_like(word, 3), 10)
    assert places.unique().tolist() == list(range(7))
    assert (places.bincount() / len(word) - 1 / 7).abs().max() < 0.01
    assert first(word, torch.full_like(word, 10), 10).eq(0).all()
    assert first(torch.tensor([2**32 - 1]), torch.tensor([3]), 10) == 6


def test_a_square_has_one_corner_colour() -> None:
    images = 0.5 + 0 * images_of(40, shape=SHAPE)
    state = begin(Square(), given_to(wide(), images, eps=0.1))
    state = advance(Square(), state, wide(), 20)
    changed = state["x"] - state["best_x"]
    inside = (changed != 0).flatten(1).any(1)
    assert inside.sum() > 30
    side = Square().sides(images)[1]
    for delta, x in zip(changed[inside], state["x"][inside], strict=True):
        where = delta.ne(0).any(0).nonzero()
        extent = where.amax(0) - where.amin(0) + 1
        assert (extent <= side).all()
        colours = [(x[plane] - 0.5)[delta[plane] != 0].sign().unique() for plane in range(2)]
        assert all(len(colour) <= 1 for colour in colours)
