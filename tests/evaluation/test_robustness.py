"""The order that attacks must come in, where they start, and what they leave as they found it."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch
from devices import DEVICES

from fastiseat.attacks import random_start
from fastiseat.errors import UserError
from fastiseat.evaluation import any_attack_named, attack_named, evaluate_split, trial
from fastiseat.evaluation.attack import ATTACKS, Attack

EPS = 0.15


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A briefly trained network and the digits it was not trained on."""
    with pytest.MonkeyPatch.context() as patch:
        tiny.install(patch, train=250, test=120)
        trainer = tiny.trainer(
            tiny.config("at", epochs=4, attack={"steps": 3}), tmp_path_factory.mktemp("trained")
        )
        trainer.run()
    return trainer.model, trainer.data.test


def test_stronger_attacks_find_more(trained):
    model, split = trained
    attacks = [attack_named(name, eps=EPS) for name in ("clean", "fgsm", "pgd")]
    attacks.append(attack_named("pgd", eps=EPS, steps=50))
    accuracies = [evaluate_split(model, split, attack).mean() for attack in attacks]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > 0.5
    assert accuracies[3] < accuracies[0] - 0.1


def test_restarts_only_ever_find_more(trained):
    model, split = trained
    verdicts = [
        evaluate_split(model, split, attack_named("pgd", eps=EPS, steps=3, restarts=restarts), seed=1)
        for restarts in (1, 2, 5)
    ]
    for fewer, more in pairwise(verdicts):
        assert not (more & ~fewer).any()
    assert verdicts[2].sum() < verdicts[0].sum(), "further restarts start somewhere else"


def test_random_starts_come_from_the_seed_alone(trained):
    model, split = trained
    attack = attack_named("pgd", eps=EPS, steps=1, restarts=2)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = evaluate_split(model, split, attack, seed=5)
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(2)
    assert np.array_equal(evaluate_split(model, split, attack, seed=5), one)


def test_every_restart_batch_and_seed_starts_somewhere_else(trained, monkeypatch):
    model, split = trained
    starts = []

    def recorded(*words, **more):
        starts.append(random_start(*words, **more))
        return starts[-1]

    monkeypatch.setattr(trial, "random_start", recorded)
    attack = attack_named("pgd", eps=EPS, steps=1, restarts=3)
    for seed in (0, 1):
        evaluate_split(model, split.take(np.arange(8)), attack, batch_size=4, seed=seed)
    assert len(starts) == 2 * 2 * 2, "of three restarts the first starts at the image"
    assert len({start.numpy().tobytes() for start in starts}) == len(starts)
    assert all(0.9 * EPS < start.abs().max() <= EPS for start in starts)


def test_a_restart_begins_within_the_image_range(monkeypatch):
    """White pixels that it would leave: the first step goes down from 1, not from ε above it."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0] * 4, [-1.0] * 4]))  # darker is less of class 0
    monkeypatch.setattr(trial, "random_start", lambda x, eps, norm: torch.full_like(x, float(eps)))
    one = trial.Trial(model=model, steps=1, random_start=True)
    x, y = torch.ones(1, 1, 2, 2), torch.zeros(1, dtype=torch.int64)
    found = one._attack(x, y, {"eps": torch.tensor(0.1), "step_size": torch.tensor(0.025)})[0]
    torch.testing.assert_close(found, torch.full_like(x, 0.975))


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_verdicts_do_not_depend_on_the_batch_size(trained, batch_size):
    model, split = trained
    some = split.take(np.arange(40))
    attack = attack_named("pgd", eps=EPS, steps=5)
    told = []
    verdicts = evaluate_split(model, some, attack, batch_size=batch_size, progress=told.append)
    assert np.array_equal(verdicts, evaluate_split(model, some, attack))
    assert told == [min(done, 40) for done in range(batch_size, 40 + batch_size, batch_size)]


@pytest.mark.parametrize("device", DEVICES)
def test_verdicts_do_not_depend_on_the_device(trained, device):
    """In float64, where no rounding turns a step of the attack around."""
    model, split = copy.deepcopy(trained[0]).double(), trained[1].take(np.arange(40))
    for name in ("clean", "fgsm", "pgd"):
        attack = attack_named(name, eps=EPS)
        found = evaluate_split(copy.deepcopy(model).to(device), split, attack)
        assert np.array_equal(found, evaluate_split(model, split, attack)), name


def test_the_network_is_left_as_found(trained):
    model, split = trained
    for number, part in enumerate(model.modules()):
        part.training = number % 2 == 0
    modes = [part.training for part in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    some = split.take(np.arange(20))
    in_this_mode = evaluate_split(model, some, attack_named("pgd", eps=EPS))
    assert [part.training for part in model.modules()] == modes
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    assert tiny.same_weights(model.state_dict(), state), "BatchNorm's statistics included"
    assert np.array_equal(evaluate_split(model.eval(), some, attack_named("pgd", eps=EPS)), in_this_mode)


def test_modes_are_put_back_after_an_interrupt_too(trained):
    model, split = trained
    model.train()

    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_split(model, split, attack_named("clean", eps=0), progress=stop)
    assert model.training


def test_what_a_name_stands_for():
    assert attack_named("pgd", eps=0.2) == Attack(name="pgd-10", eps=0.2, step_size=0.05, steps=10)
    assert attack_named("pgd", eps=0.2, steps=50, step_size=0.01, restarts=3) == Attack(
        name="pgd-50", eps=0.2, step_size=0.01, steps=50, restarts=3
    )
    assert attack_named("fgsm", eps=0.2) == Attack(name="fgsm", eps=0.2, step_size=0.2, steps=1)
    assert attack_named("clean", eps=0.2).steps == 0
    cw = attack_named("cw-20", eps=0.2, norm="l2")
    assert cw == Attack(name="cw-20", eps=0.2, step_size=0.05, steps=20, norm="l2", loss="margin")
    assert [any_attack_named(name, eps=0.1).name.removesuffix("-10") for name in ATTACKS] == list(ATTACKS)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("pgd", {"eps": -0.1}, "eps=-0.1: must be at least 0"),
        ("pgd", {"eps": 8}, "eps=8: is beyond the pixel values, .* written 8/255"),
        ("pgd", {"eps": float("nan")}, "eps=nan: must be a finite number"),
        ("pgd", {"eps": 0.1, "step_size": float("inf")}, "step_size=inf: must be a finite number"),
        ("pgd", {"eps": 0.1, "step_size": 0.0}, "step_size=0 with eps=0.1: the attack would never move"),
        ("pgd", {"eps": 0.1, "steps": 0}, "steps=0: must be at least 1; the attack of no steps is called clean"),
        ("pgd", {"eps": 0.1, "restarts": 0}, "restarts=0: must be at least 1"),
        ("pdg", {"eps": 0.1}, "unknown attack 'pdg'; did you mean pgd"),
    ],
)
def test_an_attack_that_can_not_be_meant_is_refused(name, settings, message):
    with pytest.raises(UserError, match=message):
        attack_named(name, **settings)
