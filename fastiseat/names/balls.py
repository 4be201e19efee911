"""The balls that perturbations stay in, by name: their words, and where their geometry lies. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from fastiseat.errors import unknown
from fastiseat.fields import require, require_at_least

Norm = Literal["linf", "l2"]
"""What settings and flags take: each is an entry of :data:`BALLS` too."""


@dataclass(frozen=True, kw_only=True)
class Ball:
    """The words for one ball."""

    home: str
    """``package.module:Class``, a :class:`fastiseat.attacks.balls.Ball`."""
    sign: str
    """As the field writes it."""
    formula: str
    """What lies in it."""
    changes: str
    """Changes of an image that lie in it, in the words of a card, ``{eps}`` for ε."""
    most_eps: float = float("inf")
    """The largest ε that says anything, where pixels lie in [0, 1] and images have any size."""
    lead: str
    """What stands before ε in titles; nothing for the one that is meant where none is named."""
    in_autoattack: str = ""
    """What AutoAttack's own code calls it; empty where that can't be asked for it."""


BALLS: dict[str, Ball] = {
    "linf": Ball(
        home="fastiseat.attacks.balls.linf:Linf",
        sign="L∞",
        formula="max |δ| ≤ ε",
        changes="changes of each pixel value by up to {eps} (L∞)",
        most_eps=1.0,
        lead="",
        in_autoattack="Linf",
    ),
    "l2": Ball(
        home="fastiseat.attacks.balls.l2:L2",
        sign="L2",
        formula="‖δ‖₂ ≤ ε",
        changes="changes of length up to {eps} (L2)",
        lead="L2 ",
        in_autoattack="L2",
    ),
}
"""Every ball by name."""
assert tuple(BALLS) == get_args(Norm)


def ball_words(name: str) -> Ball:
    """:class:`UserError` for an unknown one."""
    if name not in BALLS:
        raise unknown("norm", name, BALLS)
    return BALLS[name]


def require_length(norm: str, name: str, value: float, what: str) -> None:
    """:class:`UserError` for a ``value`` that is no length of ``what`` in that ball."""
    require_at_least(0, name, value, what=f" ({what}, in pixel values 0 … 1)")
    rule = "is beyond the pixel values, 0 … 1; 8 of 255 levels are written 8/255"
    require(value <= ball_words(norm).most_eps, name, value, rule)
