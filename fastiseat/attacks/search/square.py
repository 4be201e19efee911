"""Square Attack (Andriushchenko et al., 2020): a random search by squares that needs no gradient.

Constants and details are those of AutoAttack's code, but that each sample has squares of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from fastiseat.attacks.balls import require_served
from fastiseat.attacks.draws import draw, signs
from fastiseat.attacks.losses import margins
from fastiseat.attacks.search import square_l2 as bumps
from fastiseat.attacks.search.protocol import AttackedNetwork, State, begun, noted, per_image
from fastiseat.attacks.verdict import is_right
from fastiseat.kernels.core.philox import below

_FIRST_SHARE = 0.8
# The share of the pixels that a square covers is halved after each of so many queries.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True, kw_only=True)
class Square:
    """Tries a random square of a random corner colour on the best image so far, and keeps it where the margin sinks.

    ``rescaled`` stretches the schedule of the squares' sizes, made for 10,000 queries, to ``queries``.
    """

    norm: str = "linf"
    queries: int = 5000
    rescaled: bool = False
    seed: int = 0
    stage: int = 0

    def __post_init__(self) -> None:
        require_served("square", self.norm, _TRIES)

    @property
    def length(self) -> int:
        """The starting point is a query too."""
        return self.queries + 1

    def start(self, given: Mapping[str, Tensor]) -> State:
        """See :class:`~fastiseat.attacks.search.protocol.Search`."""
        images, state = given["images"], begun(given)
        x = _TRIES[self.norm].first(self, {**given, **state})
        margin = images.new_full((len(images),), torch.inf)
        return state | {"x": x, "best_x": x.clone(), "best_margin": margin}

    def step(self, state: Mapping[str, Tensor], network: AttackedNetwork) -> State:
        """Evaluate what was tried, keep it or not, and try something else."""
        x = state["x"]
        logits = network.logits(x)
        margin = margins(logits, state["labels"])
        better = margin < state["best_margin"]
        now = dict(state) | noted(state, x, ~is_right(logits, state["labels"]))
        now["best_x"] = torch.where(per_image(better), x, state["best_x"])
        now["best_margin"] = torch.where(better, margin, state["best_margin"])
        now["x"] = _TRIES[self.norm].then(self, now)
        return now

    def side(self, pixels: int, shortest: int, share: float, *, odd: bool = False) -> int:
        """The side of a square of ``share`` of the pixels; ``odd`` where its bumps have a middle."""
        side = max(round(math.sqrt(share * pixels)), 3 if odd else 1)
        return min(side + (1 - side % 2 if odd else 0), shortest)

    def sides(self, like: Tensor, *, odd: bool = False) -> list[int]:
        """Of the squares before the first halving of their area, after it, after the next, and so on."""
        height, width = like.shape[2:]
        shares = [_FIRST_SHARE / 2**halvings for halvings in range(len(_HALVINGS) + 1)]
        return [self.side(height * width, min(height, width), share, odd=odd) for share in shares]

    def side_at(self, clock: Tensor, like: Tensor, *, odd: bool = False) -> Tensor:
        """int64 (m,): of the square that is tried next at ``clock``."""
        query = clock - 1
        if self.rescaled:
            query = query * 10_000 // self.queries
        sides = self.sides(like, odd=odd)
        side = torch.full_like(clock, sides[0])
        # A table would have to be moved to the device, which a recording could not repeat.
        for after, (last, value) in zip(_HALVINGS, pairwise(sides), strict=True):
            if value != last:
                side = torch.where(query > after, value, side)
        return side

    def _words(self, state: Mapping[str, Tensor], count: int) -> Tensor:
        place = state["index"], state["round"], state["clock"]
        return draw(*place, seed=self.seed, stage=self.stage, count=count)

    def _stripes(self, now: State) -> Tensor:
        """Each column of each colour plane at one of its ends."""
        images = now["images"]
        m, channels, _, width = images.shape
        colours = signs(self._words(now, channels * width), images.dtype)
        return (images + now["eps"] * colours.view(m, channels, 1, width)).clamp_(0, 1)

    def _square(self, now: State) -> Tensor:
        images, eps = now["images"], now["eps"]
        channels, (height, width) = images.shape[1], images.shape[2:]
        words = self._words(now, 2 + channels)
        side = self.side_at(now["clock"], images)
        inside = _window(first(words[:, 0], side, height), first(words[:, 1], side, width), side, height, width)
        colours = signs(words[:, 2:], images.dtype).view(-1, channels, 1, 1)
        return torch.where(inside, (images + eps * colours).clamp(0, 1), now["best_x"])

    def _tiles(self, now: State) -> Tensor:
        words = self._words(now, bumps.tiles_words(now["images"]))
        return bumps.tiles(now["images"], now["eps"], words)

    def _bumps(self, now: State) -> Tensor:
        images = now["images"]
        channels, (height, width) = images.shape[1], images.shape[2:]
        words = self._words(now, 5 + channels)
        side = self.side_at(now["clock"], images, odd=True)
        rows = [first(words[:, number], side, height) for number in (0, 2)]
        columns = [first(words[:, number], side, width) for number in (1, 3)]
        gains, loses = (_window(*corner, side, height, width) for corner in zip(rows, columns, strict=True))
        shape = bumps.bump(rows[0], columns[0], side, words[:, 4] >> 31 == 1, images)
        colours = signs(words[:, 5:], images.dtype)
        return bumps.moved(images, now["best_x"], now["eps"], (gains, loses), shape, colours)


class _Tries(NamedTuple):
    """What is tried in a ball: at the start, given and state in one, and after each query."""

    first: Callable[[Square, State], Tensor]
    then: Callable[[Square, State], Tensor]


_TRIES = {
    "linf": _Tries(Square._stripes, Square._square),
    "l2": _Tries(Square._tiles, Square._bumps),
}


def first(word: Tensor, side: Tensor, size: int) -> Tensor:
    """int64 (m,): where a stretch of ``side`` among ``size`` pixels begins; it never reaches the last one.

    So it is in the authors' code, whose random integers leave out their upper end.
    """
    return below(word, size - side)


def _window(row: Tensor, column: Tensor, side: Tensor, height: int, width: int) -> Tensor:
    """bool (m, 1, ``height``, ``width``): the square of that corner and side."""
    return (_stretch(row, side, height).unsqueeze(2) & _stretch(column, side, width).unsqueeze(1)).unsqueeze(1)


def _stretch(start: Tensor, side: Tensor, size: int) -> Tensor:
    offset = torch.arange(size, device=start.device) - start[:, None]
    return (offset >= 0) & (offset < side[:, None])
