"""The shortest way to a hyperplane within the image, beside the authors' and beside a linear program."""

from __future__ import annotations

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from pyautoattack import fab_projections
from scipy.optimize import linprog, minimize
from searching import in_float64
from torch import Tensor

from fastiseat.attacks.search import hyperplane
from fastiseat.attacks.search.hyperplane import toward

OFFICIAL = {"linf": fab_projections.projection_linf, "l2": fab_projections.projection_l2}
NORMS = list(OFFICIAL)


def rows(values: Tensor) -> Tensor:
    return values.view(len(values), 1, 1, -1)


def way(x: Tensor, w: Tensor, gap: Tensor, norm: str) -> Tensor:
    return toward(rows(x), rows(w), gap, norm).flatten(1)


def length(norm: str, delta: Tensor) -> Tensor:
    return delta.abs().amax(1) if norm == "linf" else delta.square().sum(1).sqrt()


def reach(x: Tensor, w: Tensor, sign: Tensor) -> Tensor:
    """How much ⟨w, δ⟩ can change against ``sign``."""
    slope = w * sign[:, None]
    return (slope.abs() * torch.where(slope > 0, x, 1 - x)).sum(1)


def problem(m: int, d: int, *, seed: int, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gaps of that share of what the borders allow, of both signs; some points on the borders, some flat pixels."""
    generator = torch.Generator().manual_seed(seed)
    x = (1.4 * torch.rand(m, d, dtype=torch.float64, generator=generator) - 0.2).clamp(0, 1)
    w = torch.randn(m, d, dtype=torch.float64, generator=generator)
    w[torch.rand(m, d, generator=generator) < 0.2] = 0
    sign = torch.ones(m, dtype=torch.float64)
    sign[::2] = -1
    return x, w, share * sign * reach(x, w, sign)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("d", [2, 5, 64, 300])
@pytest.mark.parametrize("share", [0.0, 1e-6, 0.1, 0.6, 0.97])
def test_it_is_the_authors(norm: str, d: int, share: float) -> None:
    x, w, gap = problem(60, d, seed=d, share=share)
    with in_float64():
        theirs = OFFICIAL[norm](x, w, (w * x).sum(1) - gap)
    torch.testing.assert_close(way(x, w, gap, norm), theirs, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("share", [1.5, 1e9])
def test_out_of_reach_it_goes_as_far_as_the_borders_let(norm: str, share: float) -> None:
    x, w, gap = problem(60, 20, seed=1, share=share)
    slope = w * torch.where(gap >= 0, 1.0, -1.0)[:, None]
    corner = torch.where(slope > 0, -x, 1 - x) * (w != 0)
    found = way(x, w, gap, norm)
    torch.testing.assert_close(found, corner)
    with in_float64():
        torch.testing.assert_close(found, OFFICIAL[norm](x, w, (w * x).sum(1) - gap))
    torch.testing.assert_close(way(x.float(), w.float(), gap.float(), norm), corner.float())


@pytest.mark.parametrize("norm", NORMS)
def test_no_slope_and_no_gap_are_no_way(norm: str) -> None:
    x = torch.rand(3, 4, dtype=torch.float64)
    none = torch.zeros(3, dtype=torch.float64)
    assert way(x, torch.zeros_like(x), none + 2, norm).eq(0).all()
    assert way(x, torch.randn_like(x), none, norm).eq(0).all()
    assert way(x, torch.zeros_like(x), none, norm).eq(0).all()


def test_a_linear_program_finds_nothing_shorter() -> None:
    """In the L∞ ball: least t with -t ≤ δ ≤ t."""
    x, w, gap = problem(12, 4, seed=7, share=0.7)
    found = length("linf", way(x, w, gap, "linf"))
    for row in range(len(x)):
        bounds = [(-float(at), 1 - float(at)) for at in x[row]] + [(0, None)]
        eye = torch.eye(4).tolist()
        upper = [[*line, -1] for line in eye] + [[-value for value in line] + [-1] for line in eye]
        least = linprog(
            [0, 0, 0, 0, 1],
            A_ub=upper,
            b_ub=[0] * 8,
            A_eq=[[*w[row].tolist(), 0]],
            b_eq=[-float(gap[row])],
            bounds=bounds,
        )
        assert found[row] == pytest.approx(least.fun, abs=1e-9)


def test_a_quadratic_program_finds_nothing_shorter() -> None:
    x, w, gap = problem(8, 4, seed=8, share=0.7)
    found = length("l2", way(x, w, gap, "l2"))
    for row in range(len(x)):
        normal = w[row].numpy()
        least = minimize(
            lambda delta: delta @ delta,
            x0=[0.0] * 4,
            jac=lambda delta: 2 * delta,
            bounds=[(-float(at), 1 - float(at)) for at in x[row]],
            constraints={"type": "eq", "fun": lambda delta, w=normal, gap=float(gap[row]): w @ delta + gap},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        assert found[row] == pytest.approx(least.fun**0.5, rel=1e-5)


numbers = st.floats(-2, 2, allow_subnormal=False).map(lambda value: round(value, 3))


@hypothesis.given(
    st.lists(st.tuples(st.floats(0, 1).map(lambda value: round(value, 3)), numbers), min_size=1, max_size=8),
    st.floats(0, 1),
    st.booleans(),
    st.sampled_from(NORMS),
)
@hypothesis.settings(max_examples=150)
def test_it_ends_on_the_plane_within_the_image(
    pixels: list[tuple[float, float]], share: float, above: bool, norm: str
) -> None:
    x, w = (torch.tensor([column], dtype=torch.float64) for column in zip(*pixels, strict=True))
    sign = torch.ones(1, dtype=torch.float64) * (1 if above else -1)
    gap = share * sign * reach(x, w, sign)
    delta = way(x, w, gap, norm)
    assert ((x + delta >= -1e-12) & (x + delta <= 1 + 1e-12)).all()
    assert float((w * delta).sum()) == pytest.approx(-float(gap), abs=1e-9)
    # No other way of the same effect is shorter: a step along it and back onto the plane only lengthens it.
    for _ in range(10):
        other = ((x + delta + 0.1 * torch.randn_like(x)).clamp(0, 1)) - x
        other += way(x + other, w, (w * other).sum(1) + gap, norm)
        if abs((w * other).sum() + gap) < 1e-9:
            assert length(norm, other) >= length(norm, delta) - 1e-9


KINDS = {
    "uniform": (lambda u: u, lambda x, n: n),
    "near the borders": (lambda u: u**8, lambda x, n: n),
    "heavy tails": (lambda u: u**20, lambda x, n: n**15),
    "many rooms": (lambda u: (-16 * u).exp(), lambda x, n: 1 / x),
    "many rooms, steep": (lambda u: (-8 * u).exp(), lambda x, n: x**-2),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_there_are_iterations_enough(kind: str, dtype: torch.dtype, norm: str) -> None:
    place, slope = KINDS[kind]
    x = place(torch.rand(8, 3072, dtype=torch.float64))
    w = slope(x, torch.randn(8, 3072, dtype=torch.float64))
    x, w = x.to(dtype), w.to(dtype)
    for share in (0.5, 0.99, 0.9999):
        gap = share * reach(x, w, torch.ones(8, dtype=dtype))
        missed = (w * way(x, w, gap, norm)).sum(1) + gap
        assert (missed / gap).abs().max() < (1e-5 if dtype == torch.float32 else 1e-12), share


def test_where_the_iterations_are_too_few_little_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slopes over 18 powers of ten with as much behind each: less than the overshoot of FAB is missed."""
    power = 2.0 ** -torch.arange(60, dtype=torch.float64)[None]
    x, w = power.flip(1), power
    gap = 0.999 * (x * w).sum(1)
    missed = (w * way(x, w, gap, "l2")).sum(1) + gap
    assert 0 < missed / gap < 0.05
    monkeypatch.setattr(hyperplane, "_MOST", 40)
    assert abs((w * way(x, w, gap, "l2")).sum(1) + gap) < 1e-12 * gap
