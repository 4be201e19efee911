"""A method begins its attack where the loss that it climbs has a gradient, or the attack is refused."""

from __future__ import annotations

from importlib import import_module
from typing import ClassVar

import pytest
import tiny
import torch
from side_by_side import assert_same, assert_same_metrics, batch, delta, plain, small, step
from torch import Tensor, nn

from fastiseat import AWP, PGD, TrainStep, UserError
from fastiseat.attacks.starts import AtImages, InBall, Noise, Start
from fastiseat.methods import HAT, TRADES, Method, named
from fastiseat.recipes import DATASETS, METHODS, OWN_DATA, recipe
from fastiseat.run.trainer import Trainer

NAMES = sorted(METHODS)
# A step by its name alone wants an argument of these.
HOLDING = [name for name in NAMES if "standard" in METHODS[name].options]
REFUSED = (
    "the attack starts at δ = 0, where the loss that {} attacks has no gradient: give it a start, noise 0.001"
)


def kind(name: str) -> type[Method]:
    module, _, own = METHODS[name].home.partition(":")
    found: type[Method] = getattr(import_module(module), own)
    return found


def made(name: str) -> Method:
    return kind(name)(**({"standard": plain()} if name in HOLDING else {}))


def steepest(method: Method, network: nn.Module, x: Tensor, beside: Tensor, y: Tensor) -> float:
    """The largest entry of the inner loss's gradient for δ, at ``beside``."""
    reference = network(x).detach() if method.needs_reference else None
    there = beside.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(method.inner_loss(network(there), y, reference), there)
    return float(gradient.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_flat_at_the_image_where_a_method_says_so(name: str) -> None:
    method, network, (x, y) = made(name), small().train(), batch()
    away = steepest(method, network, x, x + delta(), y)
    assert away > 1e-6
    assert (steepest(method, network, x, x, y) < 1e-9 * away) == method.flat_at_clean


@pytest.mark.parametrize("name", NAMES)
def test_recipes_and_defaults_begin_where_it_is_not(name: str) -> None:
    method = made(name)
    method.require_start(method.default_attack)
    for dataset in DATASETS:
        method.require_start(recipe(f"{dataset}:here" if dataset in OWN_DATA else dataset, name).attack)


def start(attack: PGD) -> tuple[object, ...]:
    return attack.random_start, attack.noise, attack.bn_mode


def test_a_class_begins_as_the_first_recipe_that_is_made_of_it() -> None:
    firsts = {kind(name): name for name in reversed(METHODS)}
    assert len(firsts) >= 7
    for method, name in firsts.items():
        assert start(method.default_attack) == start(recipe("digits", name).attack), name


FLAT = [name for name in NAMES if made(name).flat_at_clean]


def test_the_flat_ones_are_some_and_not_all() -> None:
    assert {"trades", "trades-awp", "hat", "rst"} <= set(FLAT) < set(NAMES)


@pytest.mark.parametrize("name", FLAT)
def test_where_settings_name_no_start_a_method_has_its_own(name: str) -> None:
    told, named_ = (
        step(
            small(), "eager", method=made(name), attack=PGD(steps=1, bn_mode="eval", noise=noise), awp=AWP(gamma=0)
        )
        for noise in (0.0, 0.001)
    )
    assert_same_metrics(told(*batch()), named_(*batch()))
    assert_same(told, named_)


@pytest.mark.parametrize("name", NAMES)
def test_settings_that_name_a_start_come_first(name: str) -> None:
    method = made(name)
    assert method.start_under(PGD(noise=0.25)) == Noise(0.25)
    assert method.start_under(PGD(random_start=True)) == InBall()
    assert method.start_under(PGD()) == method.start
    assert method.start.moves or not method.flat_at_clean


class AtTheImage(TRADES):
    """Which has no start where it needs one."""

    start: ClassVar[Start] = AtImages()


def test_a_step_from_the_image_itself_is_refused() -> None:
    one = step(small(), "eager", method=AtTheImage(), attack=PGD(steps=1, bn_mode="eval"), awp=AWP(gamma=0))
    before = {key: tensor.clone() for key, tensor in one.model.state_dict().items()}
    with pytest.raises(UserError, match=REFUSED.format("AtTheImage")):
        one(*batch())
    assert all(torch.equal(before[key], tensor) for key, tensor in one.model.state_dict().items())
    assert one.steps_taken == 0
    one(*batch(), start=delta())  # a start of the caller's
    one(*batch(), delta())  # no attack
    one.set(eps=0)  # nowhere to go
    one(*batch())
    one.set(eps=0.1)
    with pytest.raises(UserError, match="no gradient"):
        one(*batch())


@pytest.mark.parametrize("attack", [PGD(steps=1, noise=0.001), PGD(steps=1, random_start=True), None])
def test_a_step_with_a_start_is_taken(attack: PGD | None) -> None:
    one = step(small(), "eager", method=TRADES(), attack=attack, awp=AWP(gamma=0))
    assert one(*batch())["loss"].isfinite()


class Compared(AtTheImage):
    """A user's own."""


class Bent(AtTheImage):
    """One that climbs the cross entropy as well."""

    flat_at_clean: ClassVar[bool] = False  # type: ignore[assignment]

    def inner_loss(self, logits: Tensor, labels: Tensor, reference: Tensor | None) -> Tensor:
        return super().inner_loss(logits, labels, reference) + nn.functional.cross_entropy(logits, labels)


def test_methods_of_a_users_own_are_held_to_it() -> None:
    with pytest.raises(UserError, match=REFUSED.format("Compared")):
        step(plain(), "eager", method=Compared(), awp=AWP(gamma=0))(*batch())
    step(plain(), "eager", method=Bent(), awp=AWP(gamma=0))(*batch())


def test_a_run_is_refused_before_anything_is_written(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    tiny.install(monkeypatch)
    config = tiny.config("trades", attack={"noise": 0.0})
    with pytest.raises(UserError, match=REFUSED.format("TRADES")):
        Trainer(config, tmp_path / "run", device=torch.device("cpu"), observer=tiny.Watcher())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in HOLDING])
def test_a_name_brings_its_start_and_its_weight_perturbation(name: str) -> None:
    settings = TrainStep(small(), method=name).settings
    theirs = recipe("cifar10", name)
    assert settings.method == named(name) == made(name)
    assert start(settings.attack) == start(theirs.attack)
    assert (settings.attack.eps, settings.attack.step_size, settings.attack.steps) == (8 / 255, 2 / 255, 10)
    assert bool(settings.awp.gamma) == bool(theirs.awp.gamma)
    given = TrainStep(small(), method=name, attack=PGD(steps=2, random_start=True), awp=AWP(gamma=0.5)).settings
    assert (given.attack, given.awp) == (PGD(steps=2, random_start=True), AWP(gamma=0.5))


@pytest.mark.parametrize("name", HOLDING)
def test_a_name_cannot_give_a_network(name: str) -> None:
    with pytest.raises(
        UserError, match=r"method='hat': .* give the method itself, fastiseat.methods.HAT\(standard="
    ):
        TrainStep(small(), method=name)
    assert TrainStep(small(), method=HAT(standard=plain())).settings.attack == HAT.default_attack


def test_a_misspelt_name_is_told_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown method 'tardes'; did you mean trades"):
        TrainStep(small(), method="tardes")
