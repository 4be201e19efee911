"""Searches driven by hand, beside the authors' own AutoAttack, in float64 on networks of a few pixels."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trials import watch

from fastiseat.attacks.search.protocol import Search, State
from fastiseat.evaluation.passes import EvaluationPasses

NORMS = {"linf": "Linf", "l2": "L2"}
CLASSES = 5
EPS = {"linf": 0.2, "l2": 0.5}
LOGGER = logging.getLogger("official")


def curved(*, seed: int = 0, sharp: float = 1.5, shape: tuple[int, ...] = (2, 5, 5)) -> nn.Module:
    """A smooth network whose loss an ascent overshoots; its parts see all pixels."""
    torch.manual_seed(seed)
    size = int(torch.tensor(shape).prod())
    model = nn.Sequential(nn.Flatten(), nn.Linear(size, 12), nn.Tanh(), nn.Linear(12, CLASSES)).double()
    with torch.no_grad():
        for layer in (model[1], model[3]):
            layer.weight *= 2 * sharp
    return model.eval()


class OneByOne(nn.Module):
    """Answers whose last bit knows nothing of the batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.model(one[None]) for one in x])


def images_of(count: int, *, seed: int = 0, shape: tuple[int, ...] = (2, 5, 5)) -> Tensor:
    """Some pixels at 0 and at 1."""
    generator = torch.Generator().manual_seed(seed)
    return (1.2 * torch.rand(count, *shape, dtype=torch.float64, generator=generator) - 0.1).clamp(0, 1)


def given_to(model: nn.Module, images: Tensor, *, eps: float, labels: Tensor | None = None, nth: int = 1) -> State:
    """The fixed tensors of a search; labels are the network's answers, targets its ``nth`` likeliest other class."""
    with torch.no_grad():
        order = model(images).argsort(1, descending=True)
    index = torch.arange(len(images))
    return {
        "images": images,
        "labels": order[:, 0].clone() if labels is None else labels,
        "target": order[:, nth].clone(),
        "index": index,
        "round": torch.zeros_like(index),
        "eps": images.new_full((), eps),
    }


def begin(search: Search, given: State) -> State:
    """The whole state before the first step."""
    return given | search.start(given)


def advance(search: Search, state: State, model: nn.Module, steps: int | None = None) -> State:
    """After so many steps, or all."""
    for _ in range(search.length if steps is None else steps):
        state = state | search.step(state, EvaluationPasses(model=model))
    return state


def joined(*states: State) -> State:
    """One batch of several."""
    return {
        name: torch.cat([state[name] for state in states]) if tensor.dim() else tensor
        for name, tensor in states[0].items()
    }


def inputs_of(model: nn.Module) -> list[Any]:
    """What the network is asked from here on."""
    return watch(model, lambda x: x.detach().clone())


@contextmanager
def in_float64() -> Iterator[None]:
    """The authors' code makes tensors of torch's default dtype, and calls ``float`` on others."""
    before = torch.get_default_dtype()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
