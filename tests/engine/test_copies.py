"""A copied or pickled step goes on to the bits of the one that it was made of."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from side_by_side import assert_same, batch, everything, step
from torch import Tensor, nn

from fastiseat import AWP, PGD, SGD, TrainStep
from fastiseat.methods import HAT, METHODS, SLOREMART, TRADES


def pickled(one: TrainStep) -> TrainStep:
    return pickle.loads(pickle.dumps(one))


ways = pytest.mark.parametrize("way", [copy.deepcopy, pickled], ids=["copied", "pickled"])


class Deep(nn.Module):
    """Its BatchNorms are fused, of which the later ones' statistics are off by rounding where they aren't."""

    def __init__(self, *, drops: bool = False) -> None:
        super().__init__()
        self.stem, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv, self.bn2 = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(0.3 if drops else 0.0), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.stem(x)))
        return self.head(self.drop(torch.relu(self.bn2(self.conv(x))).mean((2, 3))))


def deep(**choices: bool) -> nn.Module:
    torch.manual_seed(5)
    return Deep(**choices)


def bytes_(seed: int) -> dict[str, Tensor]:
    images, labels = batch(seed)
    pixels = (images * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return {"images": pixels, "labels": labels, "index": torch.arange(len(labels)) + seed}


def goes_on_alike(one: TrainStep, way: Callable[[TrainStep], TrainStep], *, settings: dict[str, Any]) -> TrainStep:
    """Train, copy, and train both further; the copy."""
    for seed in range(2):
        one(**bytes_(seed))
    one.set(**settings)
    twin = way(one)
    assert twin.settings.structure() == one.settings.structure() or one.settings.trained.networks
    for seed in (2, 3):
        before = everything(twin)
        mine = one(**bytes_(seed))
        assert all(torch.equal(tensor, before[name]) for name, tensor in everything(twin).items())
        found = twin(**bytes_(seed))
        assert all(torch.equal(found[name], metric) for name, metric in mine.items())
        assert_same(twin, one, 0)
    return twin


@ways
@pytest.mark.parametrize("name", METHODS)
def test_every_method(name: str, way: Callable[[TrainStep], TrainStep]) -> None:
    method = HAT(standard=deep().requires_grad_(False)) if "standard" in METHODS[name].options else name
    one = TrainStep(deep(drops=True), method=method, engine="eager")
    one.settings = replace(one.settings.set({"epoch": 3}), attack=replace(one.attack, steps=2))
    goes_on_alike(one, way, settings={"lr": 0.03})


CHOICES: dict[str, dict[str, Any]] = {
    "tape": {"engine": "tape"},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "previous step": {"awp": AWP(gradient="previous-step")},
    "recompute": {"clean_graph": "recompute"},
    "seed": {"seed": 7, "attack": PGD(steps=1, random_start=True)},
    "no momentum yet": {"optimizer": SGD(momentum=0.0)},
    "noise": {"method": TRADES(), "attack": PGD(steps=1, noise=0.001)},
}


@ways
@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice(choice: str, way: Callable[[TrainStep], TrainStep]) -> None:
    parts = {"attack": PGD(steps=2)} | CHOICES[choice]
    twin = goes_on_alike(step(deep(), parts.pop("engine", "eager"), **parts), way, settings={"eps": 0.02})
    assert twin.model is not None
    assert twin.seed == CHOICES[choice].get("seed", 0)
    assert twin.engine.name == CHOICES[choice].get("engine", "eager")


@ways
def test_a_method_in_stages_is_where_it_was(way: Callable[[TrainStep], TrainStep]) -> None:
    one = TrainStep(deep(), method=SLOREMART(), attack=PGD(steps=1), engine="eager")
    one.come_to(0.5)
    assert goes_on_alike(one, way, settings={}).method == one.method


def test_a_copy_and_its_module_are_copied_together() -> None:
    one = TrainStep(deep(), engine="eager")
    both = copy.deepcopy({"model": one.model, "step": one})
    assert both["step"].model is both["model"]
    assert both["model"] is not one.model


def test_an_unpickled_module_is_trained() -> None:
    fresh, unpickled = (step(model, "tape") for model in (deep(), pickle.loads(pickle.dumps(deep()))))
    for one in (fresh, unpickled):
        one(**bytes_(0))
    assert_same(unpickled, fresh, 0)
