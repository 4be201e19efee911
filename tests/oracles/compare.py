"""Running the engine and the oracle side by side, and how far apart they end."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from fastiseat import AWP, ISEAT, PGD, SGD, TrainStep, models
from oracles.algorithm1 import Algorithm1

STEPS, TOLERANCE = 3, 1e-10
# Sums on a GPU run in an order of their own, which may change from call to call.
TOLERANCES = {"cpu": TOLERANCE, "cuda": 1e-9}
ISEAT_SCALARS = {"lr": 0.1, "eps": 8 / 255, "step_size": 2 / 255, "lam": 0.1, "gamma": 0.007}
# Warm start: ε and α at 0 and then at 1/5, both regularisers off; then everything on.
WARM_START = [
    ISEAT_SCALARS | {"eps": 0.0, "step_size": 0.0, "lam": 0.0, "gamma": 0.0},
    ISEAT_SCALARS | {"eps": 8 / 255 / 5, "step_size": 2 / 255 / 5, "lam": 0.0, "gamma": 0.0},
    ISEAT_SCALARS,
]


def scalars(**changed: float) -> list[dict[str, float]]:
    return [ISEAT_SCALARS | changed] * STEPS


# name: (scalars of each step, other settings)
CASES: dict[str, tuple[list[dict[str, float]], dict[str, Any]]] = {
    "at": (scalars(lam=0, gamma=0), {}),
    "at-awp": (scalars(lam=0), {}),
    "lsi": (scalars(gamma=0), {}),
    "iseat": (scalars(), {}),
    "strong-stability": (scalars(lam=3.0), {}),
    "warm-start": (WARM_START, {}),
    "lr-drop": ([ISEAT_SCALARS | {"lr": 0.1 / 10**step} for step in range(STEPS)], {}),
    "global-norm": (scalars(), {"norm": "global"}),
    "random-start": (scalars(), {"random_start": True}),
    "large-decay": (scalars(), {"weight_decay": 0.1}),
    "nesterov": (scalars(), {"nesterov": True}),
    "no-momentum": (scalars(), {"momentum": 0.0}),
    "eval-bn": (scalars(), {"bn_mode": "eval"}),
    "eval-bn-at-awp": (scalars(lam=0), {"bn_mode": "eval"}),
    "eval-bn-random-start": (scalars(), {"bn_mode": "eval", "random_start": True}),
}


def batches(m: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    # 16x16: BatchNorm over fewer values than 2x2 an image amplifies rounding past any tolerance.
    generator, shape = torch.Generator().manual_seed(7), (m, 3, 16, 16)
    return [
        (
            torch.rand(shape, dtype=torch.float64, generator=generator),
            torch.randint(10, (m,), generator=generator),
            (2 * torch.rand(shape, dtype=torch.float64, generator=generator) - 1) * 8 / 255,
        )
        for _ in range(STEPS)
    ]


def build(arch: str, variant: str = "released") -> nn.Module:
    """A network by name; ``narrow-prn18`` has all of PRN18's blocks at an eighth of its width."""
    torch.manual_seed(1)
    if arch == "narrow-prn18":
        spec = models.ModelSpec(arch="prn18", variant=variant, in_channels=3, num_classes=10)
        return models.PreActResNet(spec, depths=(2, 2, 2, 2), widths=(8, 16, 32, 64)).double()
    return models.build(arch, variant=variant, in_channels=3, num_classes=10).double()


def pair(model: nn.Module, first: dict[str, float], settings: dict[str, Any]) -> tuple[TrainStep, Algorithm1]:
    momentum, decay = settings.get("momentum", 0.9), settings.get("weight_decay", 5e-4)
    bn_mode, norm = settings.get("bn_mode", "train"), settings.get("norm", "tensor")
    nesterov = settings.get("nesterov", False)
    oracle = Algorithm1(
        model,
        **first,
        momentum=momentum,
        weight_decay=decay,
        nesterov=nesterov,
        steps=10,
        awp_norm=norm,
        bn_mode=bn_mode,
    )
    step = TrainStep(
        copy.deepcopy(model),
        method=ISEAT(lam=first["lam"]),
        attack=PGD(eps=first["eps"], step_size=first["step_size"], steps=10, bn_mode=bn_mode),
        awp=AWP(gamma=first["gamma"], norm=norm),
        optimizer=SGD(lr=first["lr"], momentum=momentum, weight_decay=decay, nesterov=nesterov),
    )
    return step, oracle


def largest_difference(step: TrainStep, oracle: Algorithm1) -> float:
    """Over parameters, buffers and momentum: the largest difference of a tensor, relative to its largest entry."""
    ours = step.model.state_dict() | {f"momentum.{n}": b for n, b in step.momentum_buffers.items()}
    theirs = oracle.model.state_dict() | {f"momentum.{n}": b for n, b in oracle.momentum_buffers.items()}
    assert ours.keys() == theirs.keys()
    differences = []
    for name, expected in theirs.items():
        difference = (ours[name].double() - expected.double()).abs().max() / expected.double().abs().max()
        # Momentum that is 0 in both has no relative difference.
        differences.append(0.0 if torch.equal(ours[name], expected) else float(difference))
    return max(differences)


def run_both(model: nn.Module, plan: list[dict[str, float]], settings: dict[str, Any], m: int) -> float:
    """Train engine and oracle on the same batches, where the model lies; the largest relative difference at the end."""
    step, oracle = pair(model, plan[0], settings)
    device = next(model.parameters()).device
    for now, batch in zip(plan, batches(m), strict=True):
        x, y, start = (tensor.to(device) for tensor in batch)
        start = start * now["eps"] / (8 / 255) if settings.get("random_start") else None
        step.set(**now)
        for name, value in now.items():
            setattr(oracle, name, value)
        metrics, expected = step(x, y, start=start), oracle.step(x, y, start)
        torch.testing.assert_close(
            metrics["loss"], expected["loss"].detach(), rtol=TOLERANCES[device.type], atol=0
        )
        if expected["av"] is not None:
            torch.testing.assert_close(metrics["av"], expected["av"], rtol=1e-9, atol=1e-12)
    weights = dict(model.named_parameters())
    assert any(not torch.equal(weights[name], w) for name, w in oracle.model.named_parameters())
    return largest_difference(step, oracle)
