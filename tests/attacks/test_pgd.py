"""The attack's loop in both balls: where it starts, that it climbs, and what it tells of NaN."""

from __future__ import annotations

import math

import pytest
import torch

from fastiseat.attacks import pgd, random_start

NORMS = ["linf", "l2"]


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
