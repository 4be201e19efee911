"""What the fields of settings take, read off their annotations. Imports no torch."""

from __future__ import annotations

import math
import operator
import os
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, SupportsFloat, Union, get_args, get_origin, get_type_hints

from fastiseat.errors import UserError

MOST_WHOLE = 2**63 - 1
"""The largest whole number that a tensor holds, and a setting takes."""
_MOST_DIGITS = 20
MOST_STEPS = 1_000_000
"""The most steps, or restarts, of an attack."""


class NotTakenError(Exception):
    """What would be needed instead, in a few words."""


class NotAmongError(Exception):
    """The choices there are, where a text is none of them."""


class Only:
    """A note in an annotation: the setting is one of these alone, methods or shapes of a schedule by their names.

    With all others it is refused where it is not its default.
    """

    def __init__(self, *names: str) -> None:
        self.names = names


def only(settings: type) -> dict[str, tuple[str, ...]]:
    """The fields of a dataclass with such a note, and the names in it."""
    noted = {name: get_args(kind)[1:] for name, kind in _kinds(settings).items() if get_origin(kind) is Annotated}
    return {name: note.names for name, notes in noted.items() for note in notes if isinstance(note, Only)}


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """:class:`UserError` with value and rule, unless the condition holds."""
    if not condition:
        raise UserError(f"{name}={value}: {rule}")


def require_at_least(minimum: float, name: str, value: float, *, what: str = "") -> None:
    """A finite number from ``minimum`` on."""
    require(value < math.inf, name, value, "must be a finite number")
    require(value >= minimum, name, value, f"must be at least {minimum}{what}")


def require_fraction(name: str, value: float) -> None:
    """Where in a run something happens."""
    require(0 <= value <= 1, name, value, "is a fraction of the run and must lie in 0 … 1")


def require_count(minimum: int, name: str, value: int, *, most: int = MOST_WHOLE) -> None:
    """A whole number of ``minimum`` to ``most``."""
    require_at_least(minimum, name, value)
    require(value <= most, name, shown(value), f"must be at most {most:,}")


def require_seed(value: int) -> None:
    """What every generator here takes."""
    require(0 <= value <= MOST_WHOLE, "seed", shown(value), "must lie in 0 … 2**63 - 1")


def whole_number(digits: str) -> int:
    """That of a name such as pgd-20; one that no setting takes is :data:`MOST_WHOLE`, however long it is."""
    return min(int(digits), MOST_WHOLE) if len(digits) < 20 else MOST_WHOLE


def require_text(**settings: object) -> None:
    """Names and paths that JSON and other programs' files hold: bytes of a path that are no UTF-8 are refused."""
    for name, value in settings.items():
        rule = "has bytes that are no UTF-8, in the locale at hand: rename it, or set LC_ALL=C.UTF-8"
        require(all(not "\ud800" <= each <= "\udfff" for each in str(value)), name, shown(str(value)), rule)


def check_types(settings: Any) -> None:
    """Every field of a dataclass is what its annotation says, or :class:`UserError`.

    The values of a ``Literal`` are all that its field takes, so that a choice is written in its annotation alone.
    NumPy's numbers and tensors of one element become Python's, lists tuples, paths in words paths. Annotations of
    other kinds than those below, and names that only a type checker knows, say nothing.
    """
    kinds: Mapping[str, Any] = _kinds(type(settings))  # type: ignore[arg-type]  # classes can be hashed
    for name, kind in kinds.items():
        value = getattr(settings, name)
        taken = typed(name, value, kind)
        if taken is not value:
            object.__setattr__(settings, name, taken)


def typed(name: str, value: Any, kind: Any) -> Any:
    """``value`` as the annotation ``kind`` asks for it; :class:`UserError` where it can't be."""
    try:
        return _taken(value, kind)
    except NotTakenError as needed:
        raise UserError(f"{name}={shown(value)}: {needed} is needed, not a {full_name(type(value))}") from None
    except NotAmongError as known:
        raise UserError(f"{name}={shown_word(value)}: is one of {known}") from None


def shown(value: object) -> str:
    """Its representation, in one line of moderate length."""
    text = " ".join(_representation(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def shown_word(word: str) -> str:
    """As it was typed, where that is one line of moderate length."""
    return word if word.isprintable() and len(word) <= 60 else shown(word)


def _representation(value: object) -> str:
    # Of thousands of digits Python writes none.
    return f"{value:#x}" if isinstance(value, int) and abs(value) > 10**60 else repr(value)


def full_name(kind: type) -> str:
    """As it is imported: from the package that offers it, not from the file inside that defines it."""
    if kind.__module__ == "builtins":
        return kind.__name__
    parts = kind.__module__.split(".")
    homes = [".".join(parts[:size]) for size in range(2, len(parts))]
    offering = (home for home in homes if vars(sys.modules.get(home, object)).get(kind.__name__) is kind)
    return f"{next(offering, kind.__module__)}.{kind.__qualname__}"


def pixels(text: str) -> float:
    """The number that ``8/255`` or ``0.031`` stands for; ``ValueError`` for anything else."""
    numerator, slash, denominator = text.partition("/")
    divisor = float(denominator) if slash else 1.0
    if divisor == 0:
        raise ValueError("division by 0")  # the type that tyro words as a usage error
    return float(numerator) / divisor


@cache
def _kinds(settings: type) -> Mapping[str, Any]:
    try:
        hints = get_type_hints(settings, include_extras=True)
    except NameError:
        return {}
    return {field.name: hints[field.name] for field in fields(settings)}


def _taken(value: Any, kind: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _annotated(value, *arguments)
    if origin in (Union, types.UnionType):
        return _one_of(value, arguments)
    if origin is Literal:
        return _choice(value, arguments)
    if origin is tuple and arguments[1:] == (...,):
        return _row(value, arguments[0])
    if origin is tuple:
        return _row_of(value, arguments)
    return _plain(value, kind) if isinstance(kind, type) else value


def _annotated(value: Any, kind: Any, *notes: Any) -> Any:
    """A text where the command line would read it as a number."""
    if kind is float and isinstance(value, str) and any(hasattr(note, "instance_from_str") for note in notes):
        try:
            return pixels(value)
        except ValueError:
            raise NotTakenError("a number or a fraction such as 8/255") from None
    return _taken(value, kind)


def _one_of(value: Any, kinds: tuple[Any, ...]) -> Any:
    # A tensor that may be one is not looked into: that would wait for its device.
    if any(
        isinstance(kind, type) and kind not in (bool, int, float) and isinstance(value, kind) for kind in kinds
    ):
        return value
    refusals: list[Exception] = []
    for kind in kinds:
        try:
            return _taken(value, kind)
        except (NotTakenError, NotAmongError) as refusal:
            refusals.append(refusal)
    choices = [refusal for refusal in refusals if isinstance(refusal, NotAmongError)]
    raise choices[0] if choices else NotTakenError(" or ".join(map(str, refusals)))


def _choice(value: Any, known: tuple[Any, ...]) -> Any:
    names = ", ".join(map(str, known))
    if not isinstance(value, str):
        raise NotTakenError(f"one of {names}")
    if value not in known:
        raise NotAmongError(names)
    return value


def _row(value: Any, kind: Any) -> Any:
    if not isinstance(value, tuple | list):
        raise NotTakenError("a tuple of numbers")
    row = tuple(_taken(entry, kind) for entry in value)
    return value if row == value else row


def _row_of(value: Any, kinds: tuple[Any, ...]) -> Any:
    """Of fixed length."""
    if not isinstance(value, tuple | list) or len(value) != len(kinds):
        raise NotTakenError(f"a tuple of {len(kinds)}")
    row = tuple(_taken(entry, kind) for entry, kind in zip(value, kinds, strict=True))
    return value if row == value else row


def _plain(value: Any, kind: type) -> Any:
    taker = _TAKERS.get(kind)
    return taker(value) if taker else _instance(value, kind, f"a {full_name(kind)}")


def _instance(value: Any, kind: Any, needed: str) -> Any:
    if not isinstance(value, kind):
        raise NotTakenError(needed)
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise NotTakenError("a whole number")
    try:
        number = value if isinstance(value, int) else operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        raise NotTakenError("a whole number") from None
    if abs(number) >= 10**_MOST_DIGITS:
        raise NotTakenError(f"a whole number of at most {_MOST_DIGITS} digits")
    return number


def _number(value: Any) -> float:
    if isinstance(value, bool | str) or not isinstance(value, SupportsFloat):
        raise NotTakenError("a number")
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # of several elements, or too large
        raise NotTakenError("a number") from None
    return value if isinstance(value, float | int) else number


def _path(value: Any) -> Path:
    path = value if isinstance(value, Path) else Path(_named(_instance(value, str | os.PathLike, "a path")))
    if "\0" in str(path):
        raise NotTakenError("a path without the byte 0")
    return path


def _named(path: Any) -> Any:
    """What is empty would be the current folder."""
    if os.fspath(path) in ("", b""):
        raise NotTakenError("a path that is not empty")
    return path


_TAKERS: dict[type, Callable[[Any], Any]] = {
    bool: lambda value: _instance(value, bool, "True or False"),
    int: _whole,
    float: _number,
    str: lambda value: _instance(value, str, "a text"),
    types.NoneType: lambda value: _instance(value, types.NoneType, "None"),
    Path: _path,
}
