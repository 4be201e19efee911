"""Every ball: what is projected lies in them, starts lie on their surface, and the steepest way climbs most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from fastiseat.attacks.balls import BALLS, ball_named
from fastiseat.attacks.draws import draw
from fastiseat.attacks.search.fab import FAB
from fastiseat.attacks.search.square import Square
from fastiseat.errors import UserError
from fastiseat.names.balls import Norm

NORMS = list(BALLS)
SHAPE = (64, 2, 3, 3)


def random(seed: int, *, normal: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    make = torch.randn if normal else torch.rand
    return make(SHAPE, dtype=torch.float64, generator=generator)


LENGTHS: dict[str, Callable[[Tensor], Tensor]] = {
    "linf": lambda flat: flat.abs().amax(1),
    "l2": lambda flat: flat.square().sum(1).sqrt(),
}
DUALS: dict[str, Callable[[Tensor], Tensor]] = {"linf": lambda flat: flat.abs().sum(1), "l2": LENGTHS["l2"]}
# Of a pixel of four on the surface, the mean of its square: in L∞ one of four is ±1, the others are uniform.
MOMENTS = {"linf": 0.25 + 0.75 / 3, "l2": 0.25}


def length(norm: str, delta: Tensor) -> Tensor:
    """By its formula; of a ball that has none here by its own, which a test of norms looks at."""
    if norm in LENGTHS:
        return LENGTHS[norm](delta.flatten(1))
    return ball_named(norm).length(delta).flatten()


@pytest.mark.parametrize("norm", NORMS)
def test_a_length_is_a_norm(norm: str) -> None:
    ball, one, other = ball_named(norm), random(5, normal=True), random(6, normal=True)
    assert ball.length(one).shape == (64, 1, 1, 1)
    torch.testing.assert_close(ball.length(one).flatten(), length(norm, one))
    torch.testing.assert_close(ball.length(-2.5 * one), 2.5 * ball.length(one))
    assert (ball.length(one + other) <= ball.length(one) + ball.length(other) + 1e-12).all()
    assert ball.length(torch.zeros(1, 1, 2, 2)).item() == 0
    names = [name for name in NORMS if torch.allclose(ball_named(name).length(one), ball.length(one))]
    assert names == [norm]


@pytest.mark.parametrize("norm", NORMS)
def test_a_projection_lies_in_the_ball_and_in_the_image(norm: str) -> None:
    ball, images, far = ball_named(norm), random(0), random(0) + random(1, normal=True)
    eps = torch.tensor(0.3, dtype=torch.float64)
    near = ball.project(images, far, eps)
    assert (length(norm, near - images) <= 0.3 + 1e-12).all()
    assert near.aminmax() == (0, 1)
    inside = images + (near - images) * 0.5
    torch.testing.assert_close(ball.project(images, inside, eps), inside, atol=1e-12, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_the_steepest_way_has_length_one_and_climbs_as_far_as_any(norm: str) -> None:
    ball, gradient = ball_named(norm), random(2, normal=True)
    way = ball.steepest(gradient)
    torch.testing.assert_close(length(norm, way), torch.ones(64, dtype=torch.float64))
    climbs = (gradient * way).flatten(1).sum(1)
    if norm in DUALS:
        torch.testing.assert_close(climbs, DUALS[norm](gradient.flatten(1)))
    index = torch.arange(64)
    for round_ in range(20):
        words = draw(index, index * 0 + round_, index * 0, seed=0, stage=0, count=ball.words_for(18))
        assert (climbs >= (gradient * ball.border(words, gradient)).flatten(1).sum(1) - 1e-12).all()
    assert ball.steepest(torch.zeros(1, 1, 2, 2)).eq(0).all(), "nowhere without a gradient, and no NaN"
    assert ball.steepest(torch.full((1, 1, 2, 2), torch.nan)).eq(0).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_starts_lie_on_the_surface_in_all_directions(norm: str, dtype: torch.dtype) -> None:
    ball, index = ball_named(norm), torch.arange(4000)
    words = draw(index, index * 0, index * 0, seed=0, stage=0, count=ball.words_for(4))
    delta = ball.border(words, torch.zeros(4000, 1, 2, 2, dtype=dtype))
    assert delta.dtype == dtype
    torch.testing.assert_close(length(norm, delta), torch.ones(4000, dtype=dtype))
    flat = delta.flatten(1)
    assert flat.mean(0).abs().max() < 0.05
    moments = flat.T @ flat / 4000
    off = moments - torch.diag(moments.diag())
    assert off.abs().max() < 0.05, "pixels know nothing of one another"
    expected = MOMENTS.get(norm, moments.diag().mean())  # all pixels alike
    assert (moments.diag() - expected).abs().max() < 0.02


@pytest.mark.parametrize("norm", NORMS)
def test_a_random_start_lies_inside_and_fills_the_ball(norm: str) -> None:
    ball, generator = ball_named(norm), torch.Generator().manual_seed(3)
    delta = ball.inside(torch.zeros(4000, 1, 1, 2), 0.3, generator)
    lengths = length(norm, delta)
    assert lengths.max() <= 0.3 + 1e-7
    half = (lengths < 0.15).float().mean()
    assert abs(half - 0.25) < 0.03, "of two dimensions a quarter of the ball lies within half its radius"
    each = torch.linspace(0.1, 0.4, 4000).view(-1, 1, 1, 1)
    far = length(norm, ball.inside(torch.zeros(4000, 1, 1, 2), each, generator)) - each.flatten()
    assert -0.02 < far.max() <= 1e-7, "an ε of its own for each sample"


def test_the_words_and_the_files_are_of_the_same_balls() -> None:
    assert set(get_args(Norm)) == set(BALLS)
    kinds = {type(ball_named(norm)) for norm in BALLS}
    assert len(kinds) == len(BALLS)


@pytest.mark.parametrize("make", [FAB, Square], ids=["fab-t", "square"])
def test_a_search_refuses_a_ball_that_it_is_not_defined_in(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BALLS, "l1", replace(BALLS["l2"], sign="L1"))
    with pytest.raises(UserError, match=r"norm=l1: (fab-t|square) is defined in the L∞ and L2 balls alone"):
        make(norm="l1")


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(UserError, match="unknown norm 'l3'"):
        ball_named("l3")
