"""What an attack on many samples at once is: a start, and a step that all of them take, each by its own clock.

A sample that is broken or through with its steps can leave at any time and another one take its place: nothing in a
step depends on the others, and every random number is the sample's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

State = dict[str, Tensor]
"""Where a search stands; each tensor has a row for each sample, but ``eps`` ().

Of every search: ``images`` (m, C, H, W), ``labels``, ``target``, the wrong class that it drives at, ``index``, the
sample's number, ``round``, which run on it this is, all int64 (m,) and never changed; ``clock`` int64 (m,), the steps
taken; ``found`` bool (m,), whether ``x_adv`` (m, C, H, W) is an adversarial image within ε.
"""

FIXED = ("images", "labels", "target", "index", "round", "eps")


class Ascent(NamedTuple):
    """What a network tells a search that climbs a loss."""

    logits: Tensor
    """(m, classes)."""
    losses: Tensor
    """(m,)."""
    gradient: Tensor
    """(m, C, H, W), of each sample's own loss."""


class AttackedNetwork(Protocol):
    """The network under attack."""

    def logits(self, x: Tensor) -> Tensor:
        """(m, classes) for images (m, C, H, W), without a gradient."""

    def ascent(self, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Ascent:
        """Those of ``x``, the losses (m,) that ``loss`` makes of them, and their gradient."""


class Search(Protocol):
    """An attack; see the module."""

    @property
    def length(self) -> int:
        """How many steps a sample takes at most."""

    def start(self, given: Mapping[str, Tensor]) -> State:
        """The state before the first step, without the fixed tensors, which are ``given``."""

    def step(self, state: Mapping[str, Tensor], network: AttackedNetwork) -> State:
        """What of the state a step changes. Nothing waits for the device."""


def begun(given: Mapping[str, Tensor]) -> State:
    """The part of a start that all searches have in common."""
    index = given["index"]
    return {
        "clock": torch.zeros_like(index),
        "found": torch.zeros_like(index, dtype=torch.bool),
        "x_adv": given["images"].clone(),
    }


def noted(state: Mapping[str, Tensor], x: Tensor, found: Tensor) -> State:
    """What all searches change: the clock, and, where ``found`` (m,), the adversarial image."""
    return {
        "clock": state["clock"] + 1,
        "found": state["found"] | found,
        "x_adv": torch.where(per_image(found), x, state["x_adv"]),
    }


def per_image(values: Tensor) -> Tensor:
    """(m,) as (m, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def at_class(logits: Tensor, classes: Tensor) -> Tensor:
    """(m,): the logit of one class a sample."""
    return logits.gather(1, classes[:, None]).squeeze(1)
