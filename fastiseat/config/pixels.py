"""Lengths in pixel values 0 … 1, written 0.031 or 8/255."""

from __future__ import annotations

from typing import Annotated, Any

from tyro.constructors import PrimitiveConstructorSpec

from fastiseat.errors import UserError
from fastiseat.fields import pixels
from fastiseat.names.balls import require_length


def pixels_in_words(value: float) -> str:
    """``8/255`` where it is a whole number of levels, else six digits."""
    levels = value * 255
    whole = 1 <= levels < 255 and abs(levels - round(levels)) < 1e-6
    return f"{round(levels)}/255" if whole else format(value, ".6g")


class NoPixelsError(UserError):
    """A word that was given for a length in pixel values, and is none."""

    def __init__(self, word: str) -> None:
        super().__init__(f"{word!r} is no length in pixel values: write it as 0.031 or 8/255")
        self.word = word


def _given_pixels(words: list[str]) -> float:
    try:
        return pixels(words[0])
    except ValueError:
        raise NoPixelsError(words[0]) from None


Pixels = Annotated[
    float,
    PrimitiveConstructorSpec[Any](
        nargs=1,
        metavar="FLOAT|A/B",
        instance_from_str=_given_pixels,
        is_instance=lambda value: isinstance(value, float | int),
        str_from_instance=lambda value: [pixels_in_words(value)],
    ),
]
"""A length in pixel values 0 … 1, written 0.031 or 8/255."""


def require_pixels(name: str, value: float, what: str) -> None:
    """:class:`UserError` for what is no length of ``what``."""
    require_length("linf", name, value, what)
