"""What a step of each method costs, counted from outside, and which passes BatchNorm's running statistics see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from counting import CountedPasses
from side_by_side import batch, small, step
from torch import Tensor, nn

from fastiseat import AWP, ISEAT, PGD, TrainStep
from fastiseat.methods import METHODS, TRADES, from_config
from fastiseat.recipes import recipe

M = 4
# Forward, input-gradient and weight-gradient passes at K = 10.
PASSES = {
    "none": (1, 1, 1),
    "at": (11, 11, 1),
    "at-awp": (12, 12, 2),
    "lsi": (11, 12, 2),
    "iseat": (12, 13, 3),
    "at-rice": (11, 11, 1),
    "awp-wu": (12, 12, 2),
    "trades": (13, 12, 2),
    "trades-awp": (15, 14, 4),
    "mart": (12, 12, 2),
    "mart-awp": (14, 14, 4),
    "slore-mart": (12, 12, 2),
}
# Whose docstring has no number of its own, or says by how much it differs.
UNSAID = ("slore-mart", "lsi")
# Updates of the running statistics a step: of an eval-mode attack only the objective's passes make any.
UPDATES = dict.fromkeys(PASSES, 11) | {"none": 1}
UPDATES |= dict.fromkeys(("trades", "trades-awp", "mart", "mart-awp", "slore-mart"), 2)


def step_of(name: str, model: nn.Module, engine: str = "eager", **parts: Any) -> TrainStep:
    """A step by the method's own recipe."""
    config = recipe("digits", name)
    usual = {"method": from_config(config.objective), "attack": config.attack, "awp": config.awp}
    return step(model, engine, **(usual | parts))


def counted(one: TrainStep) -> tuple[float, float, float]:
    """Of the second step; the first one tries the network."""
    one(*batch(0, M))
    with CountedPasses(one.model, M) as passes:
        one(*batch(1, M))
    return passes.passes


@pytest.mark.parametrize("engine", ["eager", "tape"])
@pytest.mark.parametrize("name", PASSES)
def test_each_method_costs_what_it_says(name: str, engine: str) -> None:
    found = counted(step_of(name, small(), engine))
    assert found == PASSES[name]
    assert sum(found) == METHODS[name].units
    said = type(from_config(recipe("digits", name).objective)).__doc__ or ""
    assert any(f"{METHODS[name].units} {word}" in said for word in ("units", "with")) or name in UNSAID


@pytest.mark.parametrize(
    ("smoothness", "passes"), [("lsiw", (12, 13, 3)), ("trades-awp", (13, 13, 3)), ("lsi", (13, 14, 4))]
)
def test_the_kinds_of_smoothness(smoothness: str, passes: tuple[int, int, int]) -> None:
    assert counted(step(small(), "eager", method=ISEAT(smoothness=smoothness), attack=PGD())) == passes


def test_the_reference_of_trades_is_one_forward_and_leaves_nothing() -> None:
    """Also with a given perturbation, where no attack asks for it."""
    one = step(small(), "eager", method=TRADES(), attack=PGD(bn_mode="eval", noise=0.001), awp=AWP(gamma=0))
    one(*batch(0, M))
    with CountedPasses(one.model, M) as passes:
        one(*batch(1, M), torch.zeros_like(batch(1, M)[0]))
    assert passes.passes == (2, 2, 2)


@pytest.mark.parametrize("name", PASSES)
def test_updates_of_the_running_statistics(name: str) -> None:
    one = step_of(name, small())
    for n in range(2):
        one(*batch(n, M))
    counts = {name: int(value) for name, value in one.model.named_buffers() if "tracked" in name}
    assert set(counts.values()) == {2 * UPDATES[name]}


@pytest.mark.parametrize(("smoothness", "updates"), [("lsiw", 11), ("trades-awp", 12), ("lsi", 12)])
def test_updates_by_the_kinds_of_smoothness(smoothness: str, updates: int) -> None:
    one = step(small(), "eager", method=ISEAT(smoothness=smoothness), attack=PGD())
    one(*batch(0, M))
    assert int(one.model.state_dict()["layer1.0.bn1.num_batches_tracked"]) == updates


class Noting(nn.Module):
    """Batch normalisation that notes, before each pass, its mode and its running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.head = nn.BatchNorm2d(3), nn.Linear(3, 10)
        self.seen: list[tuple[bool, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.bn.training, self.bn.running_mean.clone()))
        return self.head(self.bn(x).relu().mean((2, 3)))


@pytest.mark.parametrize("name", ["trades", "trades-awp", "mart", "mart-awp", "slore-mart"])
def test_an_attack_in_eval_mode_leaves_the_running_statistics(name: str) -> None:
    model = Noting().double()
    one = step_of(name, model)
    one(*batch(0, M))
    del model.seen[:]
    one(*batch(1, M))
    attack = [mean for training, mean in model.seen if not training]
    assert len(attack) == 10 + TRADES.needs_reference * name.startswith("trades")
    assert all(mean.equal(attack[0]) for mean in attack)
    assert [training for training, _ in model.seen[: len(attack)]] == [False] * len(attack)
    assert model.seen[len(attack)][1].equal(attack[0])  # the first pass of the objective finds them as they were
