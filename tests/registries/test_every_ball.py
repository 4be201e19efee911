"""Each ball is the one that its name says, in its geometry, in training and in every search, whoever added it.

A linear network of two classes is the judge: an image is δ away from the other class where ‖δ‖ is its margin by the
dual norm of the weights, so each verdict is known, and a step that climbs by another ball's geometry falls short.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest
import torch
from searching import advance, begin, given_to
from torch import Tensor, nn
from trials import watch

from fastiseat import AT, PGD, SGD, TrainStep, UserError, evaluate
from fastiseat.attacks.balls import BALLS, ball_named
from fastiseat.attacks.draws import draw
from fastiseat.attacks.pgd import random_start
from fastiseat.evaluation.ensemble.ensembles import ensemble_named
from fastiseat.names import AUTOATTACK
from fastiseat.names.balls import Norm

each = pytest.mark.parametrize("norm", BALLS)
SHAPE = (24, 2, 3, 3)
CLIMB_IN_ANY = ("apgd-ce", "apgd-t")
"""What ascends a loss by the ball's own verbs, and so in every ball."""


def order(norm: str) -> float:
    """p of Lp: the name says it."""
    return float(norm.removeprefix("l"))


def dual(norm: str) -> float:
    """q, 1/p + 1/q = 1."""
    p = order(norm)
    return {1.0: torch.inf, torch.inf: 1.0}.get(p) or p / (p - 1)


def length(norm: str, delta: Tensor) -> Tensor:
    return torch.linalg.vector_norm(delta.flatten(1), ord=order(norm), dim=1)


def noise(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def linear() -> nn.Module:
    torch.manual_seed(8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(18, 2)).double().eval()
    with torch.no_grad():
        model[1].bias -= model(torch.full((1, 2, 3, 3), 0.5, dtype=torch.float64))[0]
    return model


def tried(norm: str) -> tuple[nn.Module, Tensor, Tensor, Tensor, float]:
    """Network, images far from black and white, its answers, how far each is from the other class, and an ε between."""
    model, images = linear(), 0.5 + noise(1, 0.05)
    with torch.no_grad():
        logits = model(images)
    weight = (model[1].weight[0] - model[1].weight[1]).detach()
    far = (logits[:, 0] - logits[:, 1]).abs() / torch.linalg.vector_norm(weight, ord=dual(norm))
    return model, images, logits.argmax(1), far, float(far.median() * 1.0001)


@each
def test_a_projection_is_the_nearest_of_the_ball(norm: str) -> None:
    """p is nearest to x in a convex set where x - p points away from all of it."""
    ball, images, eps = ball_named(norm), torch.full(SHAPE, 0.5, dtype=torch.float64), 0.2
    for scale in (0.01, 0.1):
        x = images + noise(2, scale)
        p = ball.project(images, x, eps)
        assert (length(norm, p - images) <= eps * (1 + 1e-9)).all()
        inside = length(norm, x - images) < eps
        torch.testing.assert_close(p[inside], x[inside], rtol=0, atol=1e-9)
        torch.testing.assert_close(ball.project(images, p, eps), p, rtol=0, atol=1e-9)
        for seed in range(20):
            y = images + ball.inside(images, eps, torch.Generator().manual_seed(seed))
            assert ((x - p) * (y - p)).flatten(1).sum(1).max() < 1e-9


@each
def test_a_projection_is_an_image(norm: str) -> None:
    images = (0.5 + noise(3)).clamp(0, 1)
    near = ball_named(norm).project(images, images + noise(4), 0.3)
    assert near.min() >= 0 and near.max() <= 1
    assert (length(norm, near - images) <= 0.3 * (1 + 1e-9)).all()


@each
def test_the_steepest_way_climbs_by_the_dual_norm(norm: str) -> None:
    gradient = noise(5)
    way = ball_named(norm).steepest(gradient)
    assert (length(norm, way) <= 1 + 1e-9).all()
    best = torch.linalg.vector_norm(gradient.flatten(1), ord=dual(norm), dim=1)
    torch.testing.assert_close((gradient * way).flatten(1).sum(1), best)
    assert ball_named(norm).steepest(torch.zeros(1, 1, 2, 2)).eq(0).all()


@each
def test_starts_lie_in_it(norm: str) -> None:
    ball, like, index = ball_named(norm), torch.zeros(500, 1, 2, 2, dtype=torch.float64), torch.arange(500)
    for lengths in (
        length(norm, random_start(like, eps=0.3, norm=norm, generator=torch.Generator().manual_seed(6))) / 0.3,
        length(norm, ball.border(draw(index, index, index, seed=0, stage=0, count=ball.words_for(4)), like)),
    ):
        assert lengths.max() <= 1 + 1e-9 and lengths.max() > 0.9
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_training_and_evaluation_know_the_same_balls() -> None:
    assert set(get_args(Norm)) == set(BALLS) == set(get_args(get_type_hints(PGD)["norm"]))


@each
@pytest.mark.parametrize("start", [{}, {"random_start": True}])
def test_training_attacks_in_it(norm: str, start: dict[str, Any]) -> None:
    """Each x' that the network sees lies in the ball, and the last one is its worst."""
    model, images, labels, _, eps = tried(norm)
    attack = PGD(norm=norm, eps=eps, step_size=eps, steps=12, **start)
    step = TrainStep(model, method=AT(), attack=attack, optimizer=SGD(lr=0.0, weight_decay=0), engine="eager")
    asked = watch(model, lambda x: x.detach().clone())
    step(images, labels)
    seen = [x - images for x in asked if x.shape == images.shape]
    assert len(seen) >= 13  # what looks at a new module comes first
    assert all((length(norm, delta) <= eps * (1 + 1e-6)).all() for delta in seen)
    weight = (model[1].weight[0] - model[1].weight[1]).detach().view(1, 2, 3, 3)
    fell = ((2 * labels - 1).view(-1, 1, 1, 1) * weight * seen[-1]).flatten(1).sum(1)
    worst = eps * torch.linalg.vector_norm(weight.flatten(), ord=dual(norm))
    torch.testing.assert_close(fell, worst.expand_as(fell), rtol=0.02, atol=0)


@each
@pytest.mark.parametrize("name", ["fgsm", "pgd-20", "cw-20"])
def test_evaluation_ascends_in_it(norm: str, name: str) -> None:
    model, images, labels, far, eps = tried(norm)
    robust = evaluate(model, images, labels, name, eps=eps, norm=norm)[name].robust
    assert torch.equal(robust, far > eps)
    assert 0.3 < robust.double().mean() < 0.7


def parts(norm: str) -> Iterator[Any]:
    """The parts of AutoAttack that are defined in a ball."""
    for name in AUTOATTACK:
        try:
            yield from ensemble_named(name, norm=norm, num_classes=2).parts
        except UserError as refusal:
            if name in CLIMB_IN_ANY or f"norm={norm}" not in str(refusal):
                raise


@each
def test_every_search_stays_in_it_or_refuses_it(norm: str) -> None:
    model, images, labels, far, eps = tried(norm)
    for part in parts(norm):
        given = given_to(model, images, eps=eps, labels=labels)
        state = advance(part.search, begin(part.search, given), model, steps=min(part.search.length, 40))
        found = state["found"]
        assert not (found & (far > eps)).any(), part.name
        assert part.name == "square" or found[far < 0.97 * eps].all(), part.name
        assert found.any(), part.name
        near = state["x_adv"][found]
        assert near.min() >= 0 and near.max() <= 1
        assert (length(norm, near - images[found]) <= eps * (1 + 1e-9)).all(), part.name
        with torch.no_grad():
            assert (model(near).argmax(1) != labels[found]).all(), part.name
