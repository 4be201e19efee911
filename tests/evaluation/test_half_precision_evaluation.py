"""Half precision finds the images; what is said of them is said in float32, without TF32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from devices import DEVICES, require_precision
from torch import Tensor, nn
from trials import CLASSES, small, split_of, watch

from fastiseat.errors import UserError
from fastiseat.evaluation import Evaluator, attack_named, evaluate_split

EPS = 0.06
HALVES = ["bf16", "fp16"]


def strict() -> bool:
    """Whether no product of float32 is computed in anything less, by each of torch's settings."""
    newer = {torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision}
    return newer <= {"none", "ieee"} and not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("precision", ["full", *HALVES])
def test_which_passes_are_in_which_precision(precision: str) -> None:
    model = small()
    split = split_of(model, 8)
    passes = watch(model, lambda x: (torch.is_autocast_enabled("cpu"), x.dtype, strict()))
    allowed = torch.backends.cudnn.allow_tf32
    evaluate_split(model, split, attack_named("pgd", eps=EPS, steps=2, restarts=2), precision=precision)
    full = (False, torch.float32, True)
    gradient = full if precision == "full" else (True, torch.float32, False)
    assert passes == [gradient, gradient, full] * 2
    assert torch.backends.cudnn.allow_tf32 is allowed is True


def test_a_surrounding_autocast_is_shut_out() -> None:
    model = small()
    split, attack = split_of(model), attack_named("pgd", eps=EPS, steps=3)
    alone = evaluate_split(model, split, attack)
    passes = watch(model, lambda x: torch.is_autocast_enabled("cpu"))
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(evaluate_split(model, split, attack), alone)
    assert not any(passes)


class Lying(nn.Module):
    """In half precision every answer is another one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(192, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.flatten(1))
        return logits.roll(1, 1) if torch.is_autocast_enabled(x.device.type) else logits


@pytest.mark.parametrize("precision", HALVES)
def test_half_precision_is_not_believed(precision: str) -> None:
    torch.manual_seed(0)
    model = Lying()
    split = split_of(model)
    clean = evaluate_split(model, split, attack_named("clean", eps=0))
    assert 0.5 < clean.mean() < 1
    for attack in (attack_named("clean", eps=0), attack_named("pgd", eps=0)):
        assert np.array_equal(evaluate_split(model, split, attack, precision=precision), clean)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", HALVES)
def test_it_finds_about_as_many(precision: str, device: str) -> None:
    require_precision(precision, device)
    model = small().to(device)
    split, attack = split_of(model, 100), attack_named("pgd", eps=EPS, steps=5)
    full, half = (evaluate_split(model, split, attack, precision=name) for name in ("full", precision))
    clean = evaluate_split(model, split, attack_named("clean", eps=0))
    assert full.sum() < clean.sum() - 5
    assert abs(int(half.sum()) - int(full.sum())) <= 5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", HALVES)
def test_a_recording_in_half_precision(precision: str, device: str) -> None:
    """Within an autocast too, whose copies of the weights are older than those that a replay is to read."""
    require_precision(precision, device)
    model = small().to(device)
    split, attack = split_of(model, 32), attack_named("pgd", eps=EPS, steps=3, restarts=2)
    engine = {"cpu": "tape", "cuda": "graph"}[device]
    evaluator = Evaluator(model, precision=precision, engine=engine, batch_size=16, say=pytest.fail)
    for _ in range(2):
        with torch.autocast(device, torch.bfloat16):
            model.eval()(torch.zeros(2, 3, 8, 8, device=device))
            found = evaluator(split, attack)
        expected = evaluate_split(model, split, attack, precision=precision, batch_size=16)
        # Bits are promised on CPUs.
        assert np.array_equal(found, expected) if device == "cpu" else abs(int(found.sum() - expected.sum())) <= 2
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn_like(weight))


class Overflowing(Lying):
    """Its activations are no numbers in fp16, and its logits modest ones in float32."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.flatten(1))
        return logits * 3e4 * 3e4 / 9e8


@pytest.mark.parametrize("engine", ["eager", "tape"])
def test_an_attack_that_overflows_spares_nobody(engine: str) -> None:
    torch.manual_seed(0)
    model = Overflowing()
    split, attack = split_of(model, 32), attack_named("pgd", eps=0.05, steps=3)
    full, half = (
        evaluate_split(model, split, attack, precision=precision, engine=engine, batch_size=16)
        for precision in ("full", "fp16")
    )
    assert np.array_equal(half, full)
    assert full.sum() < evaluate_split(model, split, attack_named("clean", eps=0)).sum()


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match="unknown precision 'bf61'; did you mean bf16"):
        Evaluator(small(), precision="bf61")
