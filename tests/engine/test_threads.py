"""Steps and evaluations in several threads compute what they compute one after the other."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from fastiseat import AWP, PGD, TrainStep, evaluate
from fastiseat.fusion.trace import trace
from fastiseat.fusion.turns import taking_turns

SHARED = torch.Generator().manual_seed(0)
X, Y = torch.rand(6, 3, 6, 6, generator=SHARED), torch.arange(6) % 4


class Shaky(nn.Module):
    """It draws random numbers in eval mode too."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))
        generator = torch.Generator().manual_seed(seed)
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.1, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.body(x)
        return z + 0.01 * torch.randn_like(z)


def made(seed: int) -> nn.Module:
    """Its constructor draws numbers too."""
    with taking_turns(), torch.random.fork_rng():
        return Shaky(seed)


def trained(engine: str, model: nn.Module) -> list[Tensor]:
    one = TrainStep(model, attack=PGD(steps=2, random_start=True), awp=AWP(), engine=engine)
    metrics = [one(X, Y)["loss"] for _ in range(2)]
    return [*metrics, *model.state_dict().values()]


def evaluated(model: nn.Module) -> list[Tensor]:
    found = evaluate(model, X, Y, attacks=["clean", "pgd-3", "apgd-ce"], eps=0.1)
    return [verdicts.robust for verdicts in found.values()]


def at_once(tasks: list[Callable[[], list[Tensor]]]) -> list[list[Tensor] | BaseException]:
    """What each task returned or raised, all begun at one moment in threads of their own."""
    found: list[list[Tensor] | BaseException] = [[]] * len(tasks)
    start = threading.Barrier(len(tasks))

    def run(number: int) -> None:
        start.wait()
        try:
            found[number] = tasks[number]()
        except BaseException as error:  # told by the test
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return found


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads that are switched after a few lines."""
    found = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(found)


@pytest.mark.usefixtures("restless")
def test_the_same_bits_as_one_after_the_other() -> None:
    kinds = [partial(trained, "eager"), partial(trained, "tape"), evaluated]
    expected = [kind(made(seed)) for seed, kind in enumerate(kinds)]
    models = [made(seed % 3) for seed in range(6)]
    numbers, switches = (torch.get_rng_state(), random.getstate()), torch.get_float32_matmul_precision()
    found = at_once([partial(kinds[number % 3], model) for number, model in enumerate(models)])
    assert not [task for task in found if isinstance(task, BaseException)]
    for number, task in enumerate(found):
        assert all(map(torch.equal, task, expected[number % 3])), number  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), numbers[0])
    assert random.getstate() == numbers[1]
    assert torch.get_float32_matmul_precision() == switches


@pytest.mark.usefixtures("restless")
def test_tracing_by_itself() -> None:
    bodies = [made(seed).body for seed in range(8)]

    def traced(body: nn.Module) -> list[Tensor]:
        nodes = [len(trace(body, [body]).nodes) for _ in range(5)]
        return [torch.tensor(nodes)]

    found = at_once([partial(traced, body) for body in bodies])
    assert not [task for task in found if isinstance(task, BaseException)]
    assert all(task[0].eq(7).all() for task in found), "of five modules, the images and the answer"  # type: ignore[index]


@pytest.mark.usefixtures("restless")
def test_one_step_for_several_threads() -> None:
    one, expected = (TrainStep(made(0), attack=PGD(steps=1)) for _ in range(2))
    for _ in range(4):
        expected(X, Y)
    at_once([lambda: list(one(X, Y).values())] * 4)
    assert one.steps_taken == 4
    pairs = zip(one.model.state_dict().values(), expected.model.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_a_step_within_a_step() -> None:
    inner = TrainStep(made(1), attack=PGD(steps=1))

    class Outer(Shaky):
        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                inner(X, Y)
            return super().forward(x)

    (found,) = at_once([lambda: trained("eager", Outer(0))])
    assert not isinstance(found, BaseException)
    assert inner.steps_taken > 2
