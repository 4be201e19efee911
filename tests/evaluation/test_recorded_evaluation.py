"""A recorded evaluation says what the one call by call says, epoch after epoch, from one recording."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from devices import DEVICES
from torch import Tensor, nn
from trials import CLASSES, small, split_of, watch

from fastiseat.attacks import random_start
from fastiseat.attacks.search.apgd import APGD
from fastiseat.engine.restore import counter_seed
from fastiseat.errors import UserError
from fastiseat.evaluation import (
    Attack,
    EnsembleAttack,
    EnsembleState,
    Evaluator,
    attack_named,
    evaluate_split,
    trial,
)
from fastiseat.evaluation.ensemble.ensembles import Ensemble, Part

EPS = 0.06
ATTACKS = [
    attack_named("clean", eps=EPS),
    attack_named("fgsm", eps=EPS),
    attack_named("pgd", eps=EPS, steps=3, step_size=EPS / 2),
    attack_named("pgd", eps=EPS, steps=2, step_size=EPS / 2, restarts=3),
]
RECORDING = {"cpu": "tape", "cuda": "graph"}


def refused(line: str) -> None:
    raise AssertionError(line)


def recorded(model: nn.Module, **settings: object) -> Evaluator:
    """By batches of 16, of which a split of 42 leaves 10 over; without leave to do anything else."""
    engine = RECORDING[next(model.parameters()).device.type]
    return Evaluator(model, **{"engine": engine, "batch_size": 16, "say": refused} | settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", DEVICES)
def test_verdict_by_verdict(device: str) -> None:
    model = small().to(device).double()  # in which no rounding turns a step around
    split, evaluator = split_of(model), recorded(model)
    robust = []
    for attack in ATTACKS:
        verdicts = evaluator(split, attack, seed=7)
        assert np.array_equal(verdicts, evaluate_split(model, split, attack, batch_size=16, seed=7)), attack
        robust.append(verdicts.sum())
    assert len(set(robust)) > 2, "attacks that find the same show little"


def test_float32_too_and_from_the_seed_alone() -> None:
    """Noise without a step: no other attack depends on its start as much."""
    model, noise = small(), Attack(name="noise", eps=0.5, restarts=3)
    split = split_of(model)
    by_seed = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        by_seed.append(recorded(model)(split, noise, seed=seed))
        assert np.array_equal(by_seed[-1], evaluate_split(model, split, noise, batch_size=16, seed=seed))
    assert not np.array_equal(*by_seed)


def change(model: nn.Module) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * weight.std() * torch.randn_like(weight) if weight.dim() > 1 else 0)


@pytest.mark.parametrize("device", DEVICES)
def test_one_recording_lasts_while_weights_and_numbers_change(device: str) -> None:
    model = small().to(device).double()
    split, evaluator = split_of(model, 32), recorded(model)
    first = evaluator(split, ATTACKS[2])
    passes = watch(model, lambda x: None)
    evaluator(split, ATTACKS[2])  # the hook is new to it
    made = len(passes)
    assert made >= 2 * (3 + 1), "a warm-up and the recording"
    found = []
    for eps in (EPS, 2 * EPS, EPS / 2, 0.0):
        change(model)
        attack = replace(ATTACKS[2], eps=eps, step_size=eps / 3)
        found.append(evaluator(split, attack))
        assert len(passes) == made, "no pass but those of replays"
        assert np.array_equal(found[-1], evaluate_split(model, split, attack, batch_size=16))
        made = len(passes)
    assert not np.array_equal(found[0], first)


def test_passes_counted_from_outside() -> None:
    model = small()
    passes = watch(model, lambda x: (x.requires_grad, model.training))
    evaluate_split(model, split_of(model, 20), attack_named("pgd", eps=EPS, steps=3, restarts=2), batch_size=16)
    start = [(True, False)] * 3 + [(False, False)]
    assert passes[1:] == start * 2 * 2, "two restarts of two batches, each three gradients and a verdict"


def test_weights_that_move_are_found_again() -> None:
    model = small()
    split, evaluator = split_of(model), recorded(model)
    evaluator(split, ATTACKS[1])
    for weight in model.parameters():
        weight.data = weight.detach().flip(0).clone()
    verdicts = evaluator(split, ATTACKS[1])
    assert np.array_equal(verdicts, evaluate_split(model, split, ATTACKS[1], batch_size=16))


def test_all_is_left_as_found() -> None:
    model = small()
    for number, part in enumerate(model.modules()):
        part.training = number % 2 == 0
    modes = [part.training for part in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    split, random = split_of(model), torch.get_rng_state()
    for part, training in zip(model.modules(), modes, strict=True):
        part.training = training
    evaluator = recorded(model)
    for _ in range(2):
        evaluator(split, ATTACKS[3])
    assert [part.training for part in model.modules()] == modes
    assert torch.get_rng_state().equal(random)
    assert all(tensor.equal(state[name]) for name, tensor in model.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


class Counting(nn.Module):
    """Counts its passes in a buffer, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(192, CLASSES)
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.passes.add_(1)
        return self.layer(x.flatten(1))


def test_a_buffer_that_changes_in_eval_mode_changes_as_often() -> None:
    counts = []
    for engine in ("eager", "tape"):
        torch.manual_seed(0)
        model = Counting()
        split = split_of(model)
        model.passes.zero_()
        recorded(model, engine=engine)(split, ATTACKS[3])
        counts.append(int(model.passes))
    assert counts == [3 * 3 * (2 + 1)] * 2


class Dropping(Counting):
    """Draws random numbers in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(nn.functional.dropout(x, 0.5, training=True).flatten(1))


def test_random_numbers_of_the_network_come_from_the_seed() -> None:
    torch.manual_seed(0)
    model = Dropping()
    split, random = split_of(model, 32), torch.get_rng_state()
    by_engine = [
        recorded(model, engine=engine)(split, ATTACKS[3], seed=5) for engine in ("eager", "tape", "eager")
    ]
    assert np.array_equal(by_engine[0], by_engine[1])
    assert np.array_equal(by_engine[0], by_engine[2])
    assert torch.get_rng_state().equal(random)


class Reading(Counting):
    """Lets the host decide what to do by a value."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.layer(x.flatten(1))
        return logits if logits.sum() > 0 else 2 * logits


def test_what_an_ensemble_can_not_record_is_known_to_its_evaluator() -> None:
    """Said once, and nothing is tried to be recorded after it."""
    torch.manual_seed(0)
    model, said = Reading(), []
    split, part = split_of(model), Part(name="apgd-ce", search=APGD(loss="ce", norm="linf", iterations=1))
    evaluator, ensemble = recorded(model, say=said.append), Ensemble(name="short", parts=(part,))
    for _ in range(2):
        evaluator.run_ensemble(
            split, EnsembleAttack(name="short", eps=EPS), ensemble, EnsembleState.fresh(len(split))
        )
    evaluator(split, ATTACKS[1])
    assert [line.split(": ")[1] for line in said] == ["apgd-ce cannot be recorded"]
    assert evaluator.engine.name == "eager"


def test_a_network_that_can_not_be_recorded_is_evaluated_all_the_same() -> None:
    torch.manual_seed(0)
    model, said = Reading(), []
    split = split_of(model)
    evaluator = recorded(model, say=said.append)
    for attack in ATTACKS:
        assert np.array_equal(evaluator(split, attack), evaluate_split(model, split, attack, batch_size=16))
    assert len(said) == 1
    assert said[0].startswith("evaluation takes engine eager: this attack cannot be recorded: ")
    assert "reach the host" in said[0]
    assert evaluator.engine.name == "eager"
    with pytest.warns(RuntimeWarning, match="evaluation takes engine eager"):
        evaluate_split(model, split, ATTACKS[0], batch_size=16, engine="tape")


@pytest.mark.parametrize("out_of_memory", [1, 2])
def test_a_recording_that_does_not_fit_into_memory_is_not_made(out_of_memory: int) -> None:
    model, said, passes = small(), [], []
    split = split_of(model)

    def fail(*_: object) -> None:
        passes.append(None)
        if len(passes) == out_of_memory * (ATTACKS[1].steps + 1):
            raise torch.OutOfMemoryError("no room")

    model.register_forward_pre_hook(fail)
    evaluator = recorded(model, say=said.append)
    verdicts = evaluator(split, ATTACKS[1])
    assert said == ["evaluation takes engine eager: this attack cannot be recorded: no room"]
    assert np.array_equal(verdicts, evaluate_split(model, split, ATTACKS[1], batch_size=16))


def test_an_error_of_the_attack_stays_one() -> None:
    model = small()
    split = split_of(model)
    wider = replace(split, images=np.concatenate([split.images] * 2, axis=3))
    with pytest.raises(Exception, match=r"channels"):
        evaluate_split(model, wider, ATTACKS[0], batch_size=16)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("graph", "engine=graph: it records on a cuda device, the model lies on cpu"),
        ("grahp", "did you mean graph"),
    ],
)
def test_an_engine_that_can_not_be_had_is_refused(engine: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Evaluator(small(), engine=engine)


def test_which_engine_a_name_stands_for() -> None:
    names = {name: Evaluator(small(), engine=name).engine.name for name in ("auto", "eager", "compile", "tape")}
    assert names == {"auto": "eager", "eager": "eager", "compile": "eager", "tape": "tape"}


def test_starts_are_those_of_a_generator_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Tensor] = []
    monkeypatch.setattr(trial, "random_start", lambda *a, **k: starts.append(random_start(*a, **k)) or starts[-1])
    model = small()
    evaluate_split(model, split_of(model, 16), Attack(name="pgd", eps=0.1, step_size=0.1, steps=1, restarts=2))
    generator = torch.Generator().manual_seed(counter_seed(counter_seed(0, 0), 1))
    assert starts[0].equal(random_start(torch.zeros(16, 3, 8, 8), eps=0.1, generator=generator))
