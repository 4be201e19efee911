"""Projected gradient ascent (Madry et al., 2018): a start and a step, and the loop that training and evaluation share.

In the shape of :mod:`fastiseat.attacks.search.protocol`: a state is tensors by name, and a step makes the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from fastiseat.attacks.balls import Ball, ball_named
from fastiseat.attacks.record import AttackRecord, Look, Watch
from fastiseat.attacks.verdict import is_right
from fastiseat.errors import UserError
from fastiseat.kernels import pgd_step
from fastiseat.kernels.pgd_step import Norm as KernelNorm
from fastiseat.names.balls import Norm

State = dict[str, Tensor]
"""Where an attack stands: ``delta`` and ``x_adv`` (m, C, H, W), ``nan_grad`` bool (), of the last gradient.

Where it is watched also ``clock`` int64 (m,), the steps that a sample has taken; ``kappa`` int64 (m,); ``active``
bool (m,) and ``left`` int64 (m,), whether a sample climbs on, and how many steps it has left once it is misclassified.
"""


class Attacked(NamedTuple):
    """What :func:`pgd` returns."""

    delta: Tensor
    """δ after the last step."""
    x_adv: Tensor
    """x' = clamp(x + δ, 0, 1)."""
    nan_grad: Tensor
    """bool (): whether the gradient of any step held a NaN."""
    record: AttackRecord | None = None
    """What was to be kept; None where nothing was."""


def random_start(
    images: Tensor, *, eps: float | Tensor, generator: torch.Generator | None = None, norm: Norm = "linf"
) -> Tensor:
    """δ uniform in the ε-ball: shape and dtype of ``images``; ``generator`` is by default torch's own.

    In the L∞ ball each pixel is U(-ε, ε). In the L2 ball of d dimensions the direction is a normal sample's and the
    length ε·U^(1/d). ε may be a tensor as in :class:`Ascent`.
    """
    return ball_named(norm).inside(images, eps, generator)


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """PGD's step: δ ← Π(δ + α d), Π onto the ε-ball and onto images in [0, 1], d the ball's steepest way.

    ε and α are numbers, tensors (), or of one a sample, (m, 1, 1, 1). α may have a number for each pixel, shaped as
    the images, and so may ε in a ball that bounds each pixel alone. What no kernel serves is computed by the methods
    of :class:`fastiseat.attacks.balls.Ball`.
    """

    eps: float | Tensor
    step_size: float | Tensor
    norm: Norm = "linf"
    watch: Watch | None = None

    def start(self, images: Tensor, delta: Tensor, *, clip: bool = True) -> State:
        """At ``delta``; where ``clip``, brought to images in [0, 1]."""
        x_adv = images + delta
        if clip:
            # δ follows the clipped image, so that the first step starts where its gradient was taken.
            x_adv = x_adv.clamp(0, 1)
            delta = x_adv - images
        state = {
            "delta": delta,
            "x_adv": x_adv,
            "nan_grad": torch.zeros((), dtype=torch.bool, device=images.device),
        }
        return state if self.watch is None else state | _clocks(images, self.watch)

    def step(self, images: Tensor, state: Mapping[str, Tensor], look: Look, labels: Tensor | None = None) -> State:
        """What of the state a step changes; one that is watched goes by ``labels`` (m,) and the look's logits."""
        moved = self._moved(images, state["delta"], look.gradient)
        if self.watch is None:
            return moved
        if look.logits is None or labels is None:
            raise UserError("a watched attack needs labels, and of each point a Look with the logits: give both")
        clocks = _ticked(state, is_right(look.logits, labels), self.watch)
        if self.watch.patience is None:
            return moved | clocks
        climbs = clocks["active"].view(-1, *[1] * (images.dim() - 1))
        # `where` and no indexing by the mask: how many rows that has, the host would wait to know. Samples at rest
        # are computed and dropped.
        kept = {name: torch.where(climbs, moved[name], state[name]) for name in ("delta", "x_adv")}
        return moved | clocks | kept

    def _moved(self, images: Tensor, delta: Tensor, gradient: Tensor) -> State:
        eps, alpha = (_for_kernel(value, images) for value in (self.eps, self.step_size))
        if self.norm in get_args(KernelNorm) and eps is not None and alpha is not None:
            norm: Any = self.norm
            return pgd_step(images, delta, gradient, eps=eps, step_size=alpha, norm=norm)._asdict()
        return self._by_ball(images, delta, gradient, ball_named(self.norm))

    def _by_ball(self, images: Tensor, delta: Tensor, gradient: Tensor, ball: Ball) -> State:
        if isinstance(self.eps, Tensor) and self.eps.shape[1:].numel() > 1 and not ball.per_pixel:
            shape = tuple(self.eps.shape)
            raise UserError(f"eps is {shape}: norm {self.norm} has no ε for each pixel; give (m, 1, 1, 1)")
        eps, step_size = (_broadcastable(value, images) for value in (self.eps, self.step_size))
        ahead = images + delta + step_size * ball.steepest(gradient.to(images.dtype))
        x_adv = ball.project(images, ahead, eps)
        return {"delta": x_adv - images, "x_adv": x_adv, "nan_grad": gradient.isnan().any()}


def pgd(
    gradient: Callable[[Tensor], Tensor | Look],
    images: Tensor,
    start: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    steps: int,
    norm: Norm = "linf",
    clip_start: bool = True,
    watch: Watch | None = None,
    labels: Tensor | None = None,
) -> Attacked:
    """``steps`` times :class:`Ascent`'s step, for all samples alike unless ``watch`` has a patience.

    ``gradient`` maps x' (m, C, H, W) to the gradient of the loss that the attack climbs, or, where ``watch`` asks for
    a record, to a :class:`Look` with the logits besides; this takes ``labels`` (m,). The start is clipped to images in
    [0, 1] too, as in the codes of ISEAT, Rice et al. and Wu et al., unless not ``clip_start``: then the first gradient
    is taken outside (TRADES). Nothing waits for the device.
    """
    ascent = Ascent(eps=eps, step_size=step_size, norm=norm, watch=watch)
    state = ascent.start(images, start, clip=clip_start)
    nan_grads, log = [state["nan_grad"]], _Log(watch)
    for _ in range(steps):
        seen = gradient(state["x_adv"])
        look = seen if isinstance(seen, Look) else Look(seen)
        log.saw(state, look)
        state = ascent.step(images, state, look, labels)
        # Kept on the device and joined at the end: a NaN is told with the metrics, and no step waits for it.
        nan_grads.append(state["nan_grad"])
    return Attacked(state["delta"], state["x_adv"], torch.stack(nan_grads).any(), log.record(state))


def _for_kernel(value: float | Tensor, images: Tensor) -> float | Tensor | None:
    """As ``pgd_step`` takes it, one number or (m,); None for one a pixel."""
    if not isinstance(value, Tensor) or value.dim() <= 1:
        return value
    return value.flatten() if value.shape[1:].numel() == 1 else None


def _broadcastable(value: float | Tensor, images: Tensor) -> float | Tensor:
    """One a sample as (m, 1, 1, 1), in the images' dtype, which a float64 ε would change."""
    if not isinstance(value, Tensor):
        return value
    value = value.to(images.dtype)
    return value.view(-1, *[1] * (images.dim() - 1)) if value.dim() == 1 else value


def _clocks(images: Tensor, watch: Watch) -> State:
    nothing = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    state = {"clock": nothing, "kappa": nothing, "active": torch.ones_like(nothing, dtype=torch.bool)}
    return state if watch.patience is None else state | {"left": nothing + watch.patience}


def _ticked(state: Mapping[str, Tensor], right: Tensor, watch: Watch) -> State:
    """The clocks after a step from where the network is ``right`` (m,) or not."""
    active, more = state["active"], {}
    if watch.patience is not None:
        active = active & (right | (state["left"] > 0))
        more = {"left": state["left"] - (active & ~right).long()}
    return {"clock": state["clock"] + active, "kappa": state["kappa"] + right, "active": active, **more}


class _Log:
    """What a record holds of all steps, in their order."""

    def __init__(self, watch: Watch | None) -> None:
        self._watch = watch
        self._logits: list[Tensor] = []
        self._iterates: list[Tensor] = []

    def saw(self, state: Mapping[str, Tensor], look: Look) -> None:
        """Where the attack stood, and what the network told there."""
        if self._watch is not None and self._watch.iterates:
            # Clipped, as a start that is not, TRADES' noise, may lie outside of images.
            self._iterates.append(state["x_adv"].clamp(0, 1))
        if self._watch is not None and self._watch.logits and look.logits is not None:
            self._logits.append(look.logits)

    def record(self, state: Mapping[str, Tensor]) -> AttackRecord | None:
        """At the end, of what was asked for."""
        if self._watch is None:
            return None
        return AttackRecord(
            clock=state["clock"],
            kappa=state["kappa"] if self._watch.kappa else None,
            logits=torch.stack(self._logits) if self._logits else None,
            iterates=torch.stack([*self._iterates, state["x_adv"]]) if self._watch.iterates else None,
        )
