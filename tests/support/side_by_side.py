"""Steps by two engines on the same batches, and how far apart they are."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from oracles.compare import CASES
from torch import Tensor, nn

from fastiseat import AWP, ISEAT, PGD, SGD, TrainStep, models
from fastiseat.pipelines.protocol.augmentation import Augmentation

# Every recording on the CPU, by the tape, is a CUDA graph on a card.
RECORDED = [("cpu", "tape"), pytest.param("cuda", "graph", marks=pytest.mark.gpu)]
recorded = pytest.mark.parametrize(("device", "engine"), RECORDED)


STEPS = 5
# What importing Inductor sets off in PyTorch itself.
compiles = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


def small(device: str = "cpu", dtype: torch.dtype = torch.float64, num_classes: int = 10) -> nn.Module:
    torch.manual_seed(3)
    return models.build("small", in_channels=3, num_classes=num_classes).to(device, dtype)


class Plain(nn.Module):
    """A few layers as people write them, quick to compile."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.conv(x)).relu().mean((2, 3)))


def plain(device: str = "cpu", dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(4)
    return Plain().to(device, dtype)


def batch(
    seed: int = 0, m: int = 5, *, device: str = "cpu", dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(m, 3, 12, 12, dtype=torch.float64, generator=generator)
    return x.to(device, dtype), torch.randint(10, (m,), generator=generator).to(device)


def delta(seed: int = 0, m: int = 5, *, device: str = "cpu", dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + seed)
    return ((torch.rand(m, 3, 12, 12, generator=generator) - 0.5) * 0.06).to(device, dtype)


def step(model: nn.Module, engine: str, **parts: Any) -> TrainStep:
    """An ISEAT step of three attack steps, unless ``parts`` say otherwise; whatever it says is an error."""
    usual = {"method": ISEAT(lam=0.1), "attack": PGD(steps=3), "awp": AWP(gamma=0.01), "optimizer": SGD(lr=0.05)}
    return TrainStep(model, engine=engine, **(usual | {"augmentation": Augmentation()} | parts))


def twins(model: nn.Module, engine: str, **parts: Any) -> tuple[TrainStep, TrainStep]:
    """By eager, and by ``engine``: on copies of ``model``."""
    eager = parts | ({"clean_graph": "recompute"} if engine == "compile" else {})
    return step(copy.deepcopy(model), "eager", **eager), step(copy.deepcopy(model), engine, **parts)


def everything(step: TrainStep) -> dict[str, Tensor]:
    """All that the next step depends on, as tensors of their own."""
    state = step.state_dict()
    tensors = dict(step.model.state_dict())
    numbers = {"steps_taken": state.pop("steps_taken")} | state.pop("loss_scale")
    for kind, found in state.items():
        parts = {"": found} if isinstance(found, Tensor) else found
        tensors |= {f"{kind}.{name}": tensor for name, tensor in parts.items()}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()} | {
        name: torch.tensor(float(number)) for name, number in numbers.items()
    }


def apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of a tensor, relative to its largest entry; infinite where names differ."""
    if found.keys() != expected.keys():
        return float("inf")
    differences = [0.0]
    for name, tensor in expected.items():
        mine, theirs = found[name].double().cpu(), tensor.double().cpu()
        if not torch.equal(mine, theirs):
            differences.append(float((mine - theirs).abs().max() / theirs.abs().max()))
    # NaN is the largest of all.
    return max(differences, key=lambda value: float("inf") if value != value else value)


def assert_same(mine: TrainStep, theirs: TrainStep, tolerance: float | None = None) -> None:
    """Bit for bit on a CPU; sums on a GPU run in an order of their own."""
    allowed = {"cpu": 0.0, "cuda": 1e-9}[next(mine.model.parameters()).device.type]
    difference = apart(everything(mine), everything(theirs))
    assert difference <= (allowed if tolerance is None else tolerance), difference


def assert_same_metrics(mine: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 0.0) -> None:
    assert mine.keys() == theirs.keys()
    for name, metric in mine.items():
        torch.testing.assert_close(metric, theirs[name], rtol=tolerance, atol=tolerance)


def parts_of(case: str) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """A case of the oracle's as numbers by step, of ``STEPS`` steps, and a step's parts."""
    plan, other = CASES[case]
    plan = (plan + plan[-1:] * STEPS)[:STEPS]
    first = plan[0]
    return plan, {
        "method": ISEAT(lam=first["lam"]),
        "attack": PGD(
            eps=first["eps"],
            step_size=first["step_size"],
            steps=3,
            bn_mode=other.get("bn_mode", "train"),
            random_start=other.get("random_start", False),
        ),
        "awp": AWP(gamma=first["gamma"], norm=other.get("norm", "tensor")),
        "optimizer": SGD(
            lr=first["lr"], momentum=other.get("momentum", 0.9), weight_decay=other.get("weight_decay", 5e-4)
        ),
    }
