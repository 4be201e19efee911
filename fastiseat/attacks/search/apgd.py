"""APGD, PGD without a step size (Croce and Hein, 2020, "Reliable evaluation of adversarial robustness ...", Alg. 1).

Constants and details are those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fastiseat.attacks.balls import ball_named
from fastiseat.attacks.draws import draw
from fastiseat.attacks.losses import losses_of
from fastiseat.attacks.search.protocol import AttackedNetwork, State, begun, noted, per_image
from fastiseat.attacks.verdict import is_right

# The share of the step against that of the last movement.
_MOMENTUM = 0.75
# Below this share of rising losses since the last check, a step size is halved.
_RHO = 0.75


@dataclass(frozen=True, kw_only=True)
class APGD:
    """Ascent of ``loss``, one of :data:`~fastiseat.attacks.losses.LOSSES`, from a random point of the ball's surface.

    The first step size is 2ε. At each check it is halved, and the search goes back to the best point, where too few
    of the losses since the last one rose, or where neither it nor the best loss has changed since.
    """

    loss: str
    norm: str = "linf"
    iterations: int = 100
    seed: int = 0
    stage: int = 0

    @property
    def length(self) -> int:
        """The starting point is evaluated too."""
        return self.iterations + 1

    @cached_property
    def checks(self) -> tuple[tuple[int, int], ...]:
        """After which iterations the step size is checked, and how many each check looks back on."""
        return tuple(_checks(self.iterations))

    def start(self, given: Mapping[str, Tensor]) -> State:
        """See :class:`~fastiseat.attacks.search.protocol.Search`."""
        images, state = given["images"], begun(given)
        ball = ball_named(self.norm)
        count = ball.words_for(images[0].numel())
        place = given["index"], given["round"], state["clock"]
        words = draw(*place, seed=self.seed, stage=self.stage, count=count)
        x = (images + given["eps"] * ball.border(words, images)).clamp_(0, 1)
        nothing = images.new_zeros(len(images))
        return state | {
            "x": x,
            "last_x": x.clone(),
            "best_x": x.clone(),
            "best_gradient": torch.zeros_like(x),
            "best_loss": nothing - torch.inf,
            "last_loss": nothing,
            "rises": nothing.clone(),
            "step_size": nothing + 2 * given["eps"],
            "checked_loss": nothing - torch.inf,
            "halved": torch.ones_like(nothing, dtype=torch.bool),
        }

    def step(self, state: Mapping[str, Tensor], network: AttackedNetwork) -> State:
        """Evaluate where each sample is, look back where it is time to, and move on."""
        x, labels, target = state["x"], state["labels"], state["target"]
        logits, loss, gradient = network.ascent(x, lambda z: losses_of(self.loss, z, labels, target))
        now = dict(state) | noted(state, x, ~is_right(logits, labels))
        now |= _remembered(state, loss, gradient)
        checked, goes_back = self._checked(state["clock"], now)
        now |= checked
        back = per_image(goes_back)
        here = torch.where(back, now["best_x"], x)
        now |= {"x": self._moved(now, here, torch.where(back, now["best_gradient"], gradient)), "last_x": here}
        return now

    def _checked(self, clock: Tensor, now: State) -> tuple[State, Tensor]:
        """The step sizes after a check, and which samples go back to their best point."""
        window = torch.zeros_like(clock)
        for at, size in self.checks:
            window = torch.where(clock == at, size, window)
        is_check = window > 0
        stuck = now["rises"] <= window * _RHO
        # A check right after one that halved the step may find no better point: it has its effect still before it.
        stuck |= ~now["halved"] & (now["checked_loss"] >= now["best_loss"])
        halves = is_check & stuck
        return {
            "step_size": torch.where(halves, now["step_size"] / 2, now["step_size"]),
            "rises": torch.where(is_check, 0.0, now["rises"]),
            "halved": torch.where(is_check, stuck, now["halved"]),
            "checked_loss": torch.where(is_check | (clock == 0), now["best_loss"], now["checked_loss"]),
        }, halves

    def _moved(self, now: State, here: Tensor, gradient: Tensor) -> Tensor:
        ball, images, eps = ball_named(self.norm), now["images"], now["eps"]
        ahead = here + per_image(now["step_size"]) * ball.steepest(gradient)
        ahead = ball.project(images, ahead, eps)
        share = per_image(
            torch.where(now["clock"] == 1, 1.0, _MOMENTUM).to(here.dtype)
        )  # the first has no movement
        return ball.project(images, here + (ahead - here) * share + (here - now["last_x"]) * (1 - share), eps)


def _remembered(state: Mapping[str, Tensor], loss: Tensor, gradient: Tensor) -> State:
    """The best point so far, and whether the loss rose.

    The first iteration's rises where its loss is positive, whatever the start's was: so it is in the authors' code.
    """
    better, first = loss > state["best_loss"], state["clock"] == 0
    picked = per_image(better)
    rose = (loss > state["last_loss"]) & ~first
    return {
        "best_x": torch.where(picked, state["x"], state["best_x"]),
        "best_gradient": torch.where(picked, gradient, state["best_gradient"]),
        "best_loss": torch.where(better, loss, state["best_loss"]),
        "last_loss": torch.where(first, 0.0, loss),
        "rises": state["rises"] + rose,
    }


def _checks(iterations: int) -> Iterator[tuple[int, int]]:
    shares = (0.22, 0.03, 0.06)
    size, shrink, smallest = (max(int(share * iterations), 1) for share in shares)
    at = size
    while at <= iterations:
        yield at, size
        size = max(size - shrink, smallest)
        at += size
