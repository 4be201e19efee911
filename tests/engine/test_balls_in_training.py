"""Training in every ball, by every method: δ is in that ball and fills it, and a recording is what eager computes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from side_by_side import assert_same, batch, delta, plain, step, twins
from torch import Tensor

from fastiseat import AWP, PGD, UserError
from fastiseat.attacks.balls import ball_named
from fastiseat.engine import algorithm1
from fastiseat.methods import Method
from fastiseat.names.balls import BALLS
from fastiseat.pipelines.protocol.augmentation import Augmentation
from fastiseat.recipes import METHODS

# Around half of what the ball of images in [0, 1] may have, of 3 × 12 × 12 pixels.
PIXELS = (1, 3, 12, 12)
LENGTHS: dict[str, Callable[[Tensor], Tensor]] = {
    "linf": lambda flat: flat.abs().amax(1),
    "l2": lambda flat: flat.square().sum(1).sqrt(),
}
ATTACKED = [name for name, entry in METHODS.items() if name != "none"]


def radius(norm: str) -> float:
    """That of a δ of 0.05 at each pixel."""
    return float(ball_named(norm).length(torch.full(PIXELS, 0.05, dtype=torch.float64)))


def attack(norm: str, **more: Any) -> PGD:
    eps = radius(norm)
    return PGD(norm=norm, eps=eps, step_size=eps / 2, steps=4, **more)  # type: ignore[arg-type]


def made(name: str) -> Method:
    module, _, own = METHODS[name].home.partition(":")
    kind: type[Method] = getattr(import_module(module), own)
    return kind(**({"standard": plain()} if METHODS[name].needs == "standard" else {}))


def inputs(method: Method, seed: int) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
    """A batch of 5 far from the borders; a method with views takes uint8 images and their places."""
    x, y = batch(seed)
    x = 0.3 + 0.4 * x
    if method.views == 1:
        return (x, y), {}
    return ((x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous(), y), {"index": torch.arange(5)}


@pytest.fixture
def deltas(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Of each attack, as it is made."""
    found: list[Tensor] = []
    pgd = algorithm1.pgd

    def watched(*words: Any, **more: Any) -> Any:
        done = pgd(*words, **more)
        found.append(done.delta)
        return done

    monkeypatch.setattr(algorithm1, "pgd", watched)
    return found


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("name", ATTACKED)
def test_every_method_trains_in_every_ball(name: str, norm: str, deltas: list[Tensor]) -> None:
    method = made(name)
    gamma = 0.0 if METHODS[name].awp is None else 0.01
    parts = {
        "method": method,
        "attack": attack(norm),
        "awp": AWP(gamma=gamma),
        "augmentation": Augmentation(flip=True),
    }
    eager, tape = twins(plain(), "tape", **parts)
    for seed in range(2):
        given, more = inputs(method, seed)
        eager(*given, **more)
        lengths = ball_named(norm).length(deltas[-1]).flatten()
        assert 0 < lengths.min() <= lengths.max() <= radius(norm) * (1 + 1e-9)
        if norm in LENGTHS:
            torch.testing.assert_close(lengths, LENGTHS[norm](deltas[-1].flatten(1)))
            assert lengths.min() > 0.9 * radius(norm), "it climbs to the border"
        tape(*given, **more)
    assert_same(tape, eager)


def test_the_l2_attack_is_its_formula(deltas: list[Tensor]) -> None:
    """One sample at a time: δ ← Π(δ + α g / ‖g‖), in eval mode from the image."""
    (x, y), _ = inputs(made("at"), 0)
    one = step(plain(), "eager", method=made("at"), attack=attack("l2", bn_mode="eval"), awp=AWP(gamma=0))
    network = plain().eval()
    eps = radius("l2")
    expected = []
    for image, label in zip(x, y, strict=True):
        moved = torch.zeros_like(image)
        for _ in range(4):
            there = (image + moved).requires_grad_()
            loss = torch.nn.functional.cross_entropy(network(there[None]), label[None])
            (g,) = torch.autograd.grad(loss, there)
            moved = moved + eps / 2 * g / g.square().sum().sqrt()
            moved = moved * min(1.0, eps / float(moved.square().sum().sqrt()))
            moved = (image + moved).clamp(0, 1) - image
        expected.append(moved)
    one(x, y)
    torch.testing.assert_close(deltas[-1], torch.stack(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", BALLS)
def test_what_is_given_is_measured_in_the_balls_own_length(norm: str) -> None:
    one = step(plain(), "eager", method=made("at"), attack=attack(norm), awp=AWP(gamma=0))
    (x, y), _ = inputs(made("at"), 0)
    longest = float(ball_named(norm).length(delta()).amax())
    one(x, y, start=delta() * (radius(norm) / longest))
    with pytest.raises(UserError, match=r"start reaches .*, beyond the attack's eps"):
        one(x, y, start=delta() * (1.01 * radius(norm) / longest))
