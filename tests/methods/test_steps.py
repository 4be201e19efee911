"""Steps of each method against a literal transcription, in float64: gradients, updates, attacks, running statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from method_cases import ABLATIONS, CASES, EQUATION_7, Case
from oracles.method_step import LiteralStep, mart_attack, trades_attack
from side_by_side import batch, delta, plain, small
from torch import Tensor, nn

from fastiseat import AWP, PGD, SGD, TrainStep
from fastiseat.engine import algorithm1
from fastiseat.methods import METHODS, trades

GAMMAS = [0.0, 0.005]


def twins(
    case: Case, model: nn.Module, gamma: float, attack: PGD | None = None, **sgd: float
) -> tuple[TrainStep, LiteralStep]:
    step = TrainStep(
        copy.deepcopy(model),
        method=case.method,
        attack=attack or PGD(steps=2),
        awp=AWP(gamma=gamma),
        optimizer=SGD(lr=0.1, **sgd),
    )
    return step, LiteralStep(model, case.loss, climbs=case.climbs, gamma=gamma, **sgd)


def assert_close(mine: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    """Each tensor relative to its largest entry."""
    assert mine.keys() == theirs.keys()
    for name, expected in theirs.items():
        scale = float(expected.abs().max())
        torch.testing.assert_close(mine[name], expected, rtol=0, atol=tolerance * max(scale, 1e-6), msg=name)


def assert_gradients(case: Case, gamma: float, m: int = 5) -> None:
    """Momentum of a first step without decay is the gradient."""
    step, oracle = twins(case, small(), gamma, weight_decay=0.0)
    x, y = batch(0, m)
    loss, gradients = oracle.step(x, y, (x + delta(0, m)).clamp(0, 1))
    metrics = step(x, y, delta(0, m))
    torch.testing.assert_close(metrics["loss"], loss, rtol=1e-9, atol=0)
    assert_close(step.momentum_buffers, gradients)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("case", CASES)
def test_the_loss_and_every_gradient_at_a_given_delta(case: str, gamma: float) -> None:
    assert_gradients(CASES[case], gamma)


@pytest.mark.parametrize("case", ["trades", "mart", "slore-mart-epoch-1", "slore-mart-epoch-100", *ABLATIONS])
def test_two_images(case: str) -> None:
    assert_gradients(CASES[case], 0.005, m=2)


def test_equation_7() -> None:
    """Without weight perturbation; its tenth is two of eleven images."""
    assert_gradients(EQUATION_7, 0.0, m=11)


def run_both(step: TrainStep, oracle: LiteralStep) -> None:
    """Three steps at given perturbations; weights, statistics and momentum at their end."""
    for n in range(3):
        x, y = batch(n)
        oracle.step(x, y, (x + delta(n)).clamp(0, 1))
        step(x, y, delta(n))
    assert_close(dict(step.model.state_dict()), dict(oracle.model.state_dict()))
    assert_close(step.momentum_buffers, oracle.momentum_buffers)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize(
    "case", ["trades", "trades-adversarial-first", "mart", "slore-mart-epoch-100", "iseat-linear-l2-trades-awp"]
)
def test_updates_with_momentum_and_decay(case: str, gamma: float) -> None:
    run_both(*twins(CASES[case], small(), gamma, weight_decay=0.1))


@pytest.mark.parametrize("case", ["trades", "mart"])
def test_weight_perturbation_climbs_the_whole_loss(case: str) -> None:
    """An oracle whose ν climbs the cross entropy alone ends elsewhere."""
    other = CASES[case]._replace(climbs=CASES["at"].climbs)
    with pytest.raises(AssertionError):
        run_both(*twins(other, small(), 0.005))


def test_the_order_of_the_passes_is_seen() -> None:
    """By the running statistics alone."""
    clean_first, other = CASES["trades"], CASES["trades-adversarial-first"]
    with pytest.raises(AssertionError):
        run_both(*twins(clean_first._replace(loss=other.loss), small(), 0.0))


@pytest.mark.parametrize("name", METHODS)
def test_which_methods_pass_the_adversarial_images_first(name: str) -> None:
    """As their codes do: RST's and TRADES-AWP's."""
    first = METHODS[name].home == "fastiseat.methods.trades:AdversarialFirst"
    assert first == (name in ("rst", "trades-awp"))


ATTACKS = {"trades": trades_attack, "mart": mart_attack, "slore-mart-epoch-1": mart_attack}


def noise(seed: int, x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.001 * torch.randn(x.shape, dtype=x.dtype, generator=generator)


def black_and_white(x: Tensor) -> Tensor:
    """Half of the pixels at the ends of the range, where a start that is clipped would differ."""
    return torch.where(x < 0.25, 0.0, torch.where(x > 0.75, 1.0, x))


def assert_whole_steps(case: str, model: nn.Module, gamma: float, bn_mode: str = "eval") -> None:
    attack = PGD(eps=0.031, step_size=0.007, noise=0.001, bn_mode=bn_mode)
    step, oracle = twins(CASES[case], model, gamma, attack)
    for n in range(2):
        x, y = batch(n)
        x, start = black_and_white(x), noise(n, x)
        loss, _ = oracle.step(x, y, ATTACKS[case](oracle.model, x, y, start))
        metrics = step(x, y, start=start)
        torch.testing.assert_close(metrics["loss"], loss, rtol=1e-9, atol=0)
    assert_close(dict(step.model.state_dict()), dict(oracle.model.state_dict()))
    assert_close(step.momentum_buffers, oracle.momentum_buffers)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("case", ATTACKS)
@pytest.mark.parametrize("network", [small, plain])
def test_whole_steps_from_a_given_start(network, case: str, gamma: float) -> None:
    assert_whole_steps(case, network(), gamma)


def clip_the_start(patch: pytest.MonkeyPatch) -> None:
    honest = algorithm1.pgd
    patch.setattr(algorithm1, "pgd", lambda *args, **more: honest(*args, **(more | {"clip_start": True})))


def turn_the_divergence_round(patch: pytest.MonkeyPatch) -> None:
    honest = trades.kl_divergence
    patch.setattr(trades, "kl_divergence", lambda p, q: honest(q, p))


def take_the_reference_in_train_mode(patch: pytest.MonkeyPatch) -> None:
    honest = algorithm1.Algorithm1._reference

    def mistaken(self, x: Tensor) -> Tensor | None:
        self.model.train()
        found = honest(self, x)
        self.model.eval()
        return found

    patch.setattr(algorithm1.Algorithm1, "_reference", mistaken)


def forget_the_reference(patch: pytest.MonkeyPatch) -> None:
    """The attack then compares with uniform predictions."""
    honest = algorithm1.Algorithm1._reference
    patch.setattr(algorithm1.Algorithm1, "_reference", lambda self, x: torch.zeros_like(honest(self, x)))


@pytest.mark.parametrize(
    "mistake",
    [clip_the_start, turn_the_divergence_round, take_the_reference_in_train_mode, forget_the_reference],
)
def test_a_mistake_in_a_step_of_trades_is_seen(
    mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake(monkeypatch)
    with pytest.raises(AssertionError):
        assert_whole_steps("trades", plain(), 0.0)


@pytest.mark.parametrize("case", ATTACKS)
def test_an_attack_in_train_mode_is_seen(case: str) -> None:
    with pytest.raises(AssertionError):
        assert_whole_steps(case, plain(), 0.0, bn_mode="train")
