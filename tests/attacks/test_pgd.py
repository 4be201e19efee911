"""The attack's loop in both balls: where it starts, that it climbs, and what it tells of NaN."""

from __future__ import annotations

import math

import pytest
import torch

from fastiseat.attacks import pgd, random_start
from fastiseat.attacks.balls import BALLS
from fastiseat.attacks.record import Look, Watch
from fastiseat.errors import UserError

NORMS = list(BALLS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("eps", "expected"), [(0.05, 0.05), (10.0, 0.25)])
def test_a_linear_function_is_climbed_to_the_border(norm, eps, expected):
    """Of the ball, or, where that is large, of the image."""
    x = torch.full((2, 1, 1, 1), 0.75)
    found = pgd(
        lambda at: torch.ones_like(at), x, torch.zeros_like(x), eps=eps, step_size=0.04, steps=9, norm=norm
    )
    torch.testing.assert_close(found.delta, torch.full_like(x, expected))
    torch.testing.assert_close(found.x_adv, x + expected)


def test_the_l2_ball_has_its_own_steepest_way():
    x, g = torch.full((1, 1, 1, 2), 0.5), torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    found = pgd(lambda _: g, x, torch.zeros_like(x), eps=0.1, step_size=0.02, steps=3, norm="l2")
    torch.testing.assert_close(found.delta, 0.06 * g / 5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bad", [None, 0, 1, 2])
def test_nan_of_any_step_is_told(norm, bad):
    x, calls = torch.rand(2, 1, 3, 3), []

    def gradient(at):
        calls.append(at)
        return torch.full_like(at, math.nan if len(calls) - 1 == bad else 1.0)

    found = pgd(gradient, x, torch.zeros_like(x), eps=0.1, step_size=0.1, steps=3, norm=norm)
    assert (found.nan_grad.dtype, found.nan_grad.shape) == (torch.bool, ())
    assert found.nan_grad == (bad is not None)
    assert found.x_adv.isfinite().all()


def test_a_start_is_clipped_to_the_image_range():
    """Where it leaves it, the first step begins at the border: at 1 - α and at α, not 0.55·ε short of them."""
    x, start = torch.tensor([1.0, 1.0, 0.0, 0.5]).view(1, 1, 2, 2), torch.tensor([0.08, -0.02, -0.08, 0.08])
    away = torch.tensor([-1.0, -1.0, 1.0, -1.0]).view_as(x)
    seen = []
    found = pgd(lambda at: seen.append(at) or away, x, start.view_as(x), eps=0.1, step_size=0.025, steps=1)
    torch.testing.assert_close(seen[0].flatten(), torch.tensor([1.0, 0.98, 0.0, 0.58]))
    torch.testing.assert_close(found.x_adv.flatten(), torch.tensor([0.975, 0.955, 0.025, 0.555]))


def test_a_start_of_noise_is_not():
    """TRADES' and MART's codes: the first gradient is taken at x + δ wherever that is."""
    x, start = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2), torch.tensor([0.08, -0.08]).view(1, 1, 1, 2)
    seen = []
    found = pgd(
        lambda at: seen.append(at) or -start, x, start, eps=0.1, step_size=0.025, steps=1, clip_start=False
    )
    assert torch.equal(seen[0], x + start)
    assert torch.equal(found.x_adv, x)


def test_no_step_is_no_attack():
    x = torch.rand(2, 1, 3, 3)
    found = pgd(lambda at: at, x, torch.zeros_like(x), eps=0.1, step_size=0.1, steps=0)
    assert torch.equal(found.x_adv, x)
    assert not found.delta.any()
    assert not found.nan_grad


def test_starts_in_the_linf_ball_are_those_of_earlier_versions():
    x = torch.rand(3, 2, 4, 4)
    expected = (2 * torch.rand(x.shape, generator=generator()) - 1) * 0.03
    assert torch.equal(random_start(x, eps=0.03, generator=generator()), expected)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_starts_are_uniform_in_the_l2_ball(size):
    x = torch.zeros(20_000, 1, 1, size, dtype=torch.float64)
    start = random_start(x, eps=2.0, generator=generator(), norm="l2").flatten(1)
    lengths = torch.linalg.vector_norm(start, dim=1)
    assert lengths.max() <= 2.0 * (1 + 1e-12)
    # The share of the ball within a length is uniform; no direction is preferred.
    shares = ((lengths / 2) ** size).sort().values
    assert (shares - torch.linspace(0, 1, len(shares), dtype=torch.float64)).abs().max() < 0.015
    assert start.mean(0).abs().max() < 0.05
    assert (start > 0).double().mean(0).sub(0.5).abs().max() < 0.015


def test_starts_in_the_l2_ball_have_the_images_dtype_and_seed():
    x = torch.rand(3, 2, 4, 4)
    one, again, other = (random_start(x, eps=0.5, generator=generator(seed), norm="l2") for seed in (1, 1, 2))
    assert (one.dtype, one.shape) == (x.dtype, x.shape)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def linear(seed=4, shape=(3, 2, 4, 4)):
    """Images far from the borders, and a gradient that is the same everywhere."""
    there = torch.Generator().manual_seed(seed)
    x = 0.4 + 0.2 * torch.rand(shape, dtype=torch.float64, generator=there)
    return x, torch.randn(shape, dtype=torch.float64, generator=there)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(3,), (3, 1, 1, 1)])
def test_each_sample_may_have_its_own_radius_and_step(norm, shape):
    x, g = linear()
    eps, alpha = torch.tensor([0.01, 0.02, 0.05]), torch.tensor([0.004, 0.01, 0.01])
    found = pgd(
        lambda _: g, x, torch.zeros_like(x), eps=eps.view(shape), step_size=alpha.view(shape), steps=4, norm=norm
    )
    for row in range(3):
        one = slice(row, row + 1)
        alone = pgd(
            lambda _, one=one: g[one],
            x[one],
            torch.zeros_like(x[one]),
            eps=eps[row],
            step_size=alpha[row],
            steps=4,
            norm=norm,
        )
        assert torch.equal(found.delta[one], alone.delta)


def test_each_pixel_may_have_its_own_radius_and_step_where_the_ball_bounds_each_alone():
    x, g = linear()
    eps = 0.05 * torch.rand(x.shape, dtype=x.dtype, generator=generator(5))
    found = pgd(lambda _: g, x, torch.zeros_like(x), eps=eps, step_size=eps / 2, steps=3)
    torch.testing.assert_close(found.delta, eps * g.sign(), rtol=0, atol=1e-15)
    inside = random_start(x, eps=eps, generator=generator())
    assert (inside.abs() <= eps).all()
    with pytest.raises(UserError, match=r"eps is \(3, 2, 4, 4\): norm l2 has no ε for each pixel"):
        pgd(lambda _: g, x, torch.zeros_like(x), eps=eps, step_size=0.01, steps=1, norm="l2")
    steps = torch.full_like(x, 0.01)
    by_pixel, by_one = (
        pgd(lambda _: g, x, torch.zeros_like(x), eps=0.05, step_size=alpha, steps=3, norm="l2")
        for alpha in (steps, 0.01)
    )
    torch.testing.assert_close(by_pixel.delta, by_one.delta)


@pytest.mark.parametrize("norm", NORMS)
def test_the_methods_of_a_ball_are_what_its_kernel_computes(norm):
    """One number a pixel, all alike, leaves the kernel; the result stays."""
    x, g = linear()
    kernel, ball = (
        pgd(lambda _: g, x, torch.zeros_like(x), eps=0.03, step_size=alpha, steps=5, norm=norm)
        for alpha in (0.01, torch.full_like(x, 0.01))
    )
    torch.testing.assert_close(kernel.x_adv, ball.x_adv, rtol=0, atol=1e-12)


def crossing():
    """Four images of one pixel, of class 0 below 0.5 and of class 1 from there on, and a gradient that goes up."""
    x = torch.tensor([0.45, 0.485, 0.2, 0.6], dtype=torch.float64).view(4, 1, 1, 1)

    def look(at):
        value = at.flatten(1)[:, 0]
        return Look(torch.ones_like(at), torch.stack((0.5 - value, value - 0.5), 1))

    return look, x, torch.zeros(4, dtype=torch.int64)


def test_kappa_counts_the_points_at_which_the_network_was_right():
    look, x, y = crossing()
    watch = Watch(kappa=True, logits=True, iterates=True)
    found = pgd(look, x, torch.zeros_like(x), eps=0.1, step_size=0.02, steps=5, watch=watch, labels=y)
    record = found.record
    assert record.kappa.tolist() == [3, 1, 5, 0]  # at 0.45, 0.47, 0.49; at 0.485; always; never
    assert record.clock.tolist() == [5] * 4
    assert (record.logits.shape, record.iterates.shape) == ((5, 4, 2), (6, 4, 1, 1, 1))
    assert torch.equal(record.iterates[-1], found.x_adv)
    assert torch.equal(record.iterates[0], x)
    assert torch.equal(record.logits[2], look(record.iterates[2]).logits)
    first = record.of_first(2)
    assert (first.kappa.tolist(), first.iterates.shape, first.logits.shape) == ([3, 1], (6, 2, 1, 1, 1), (5, 2, 2))


@pytest.mark.parametrize("patience", [0, 1, 2])
def test_an_image_rests_so_many_steps_after_it_is_misclassified(patience):
    look, x, y = crossing()
    watch = Watch(patience=patience)
    found = pgd(look, x, torch.zeros_like(x), eps=0.2, step_size=0.02, steps=5, watch=watch, labels=y)
    steps = [min(right + patience, 5) for right in (3, 1, 5, 0)]
    assert found.record.clock.tolist() == steps
    torch.testing.assert_close(found.delta.flatten(), 0.02 * torch.tensor(steps, dtype=torch.float64))
    torch.testing.assert_close(found.x_adv, x + found.delta)
    assert (found.record.kappa, found.record.logits, found.record.iterates) == (None, None, None)


def test_a_watched_attack_is_the_same_attack():
    look, x, y = crossing()
    rest = {"eps": 0.1, "step_size": 0.02, "steps": 5}
    plain = pgd(lambda at: look(at).gradient, x, torch.zeros_like(x), **rest)
    watched = pgd(look, x, torch.zeros_like(x), **rest, watch=Watch(kappa=True), labels=y)
    assert plain.record is None
    assert torch.equal(plain.x_adv, watched.x_adv)
    with pytest.raises(UserError, match="needs labels, and of each point a Look with the logits"):
        pgd(lambda at: look(at).gradient, x, torch.zeros_like(x), **rest, watch=Watch(), labels=y)
