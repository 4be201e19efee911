"""Settings under torture: those that decide about files, and every choice that the config offers."""

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fastiseat.__main__ import main
from fastiseat.config import Config

FILES = (
    ("--checkpoint-every", "1step"),
    ("--checkpoint-every", "2steps", "--keep", "1"),
    ("--val-split", "0.2"),
    ("--checkpoint-every", "1step", "--keep", "3"),
    ("--on-nan", "rollback", "--max-steps", "3", "--checkpoint-every", "1step"),
    ("--crop-padding", "1", "--checkpoint-every", "3steps"),
)
"""What is written when, and kept how long."""
_AT_ONCE = 3
Choice = tuple[str, str, Any]
"""A group of the config, a setting, and a value that is not its default."""


def choices(kind: type[Any] = Config, group: str = "") -> Iterator[Choice]:
    """All that the config offers by name or by yes and no."""
    hints, default = get_type_hints(kind), kind()
    for name in (field.name for field in fields(kind)):
        if is_dataclass(hints[name]):
            yield from choices(hints[name], name)
            continue
        yield from ((group, name, value) for value in _offered(hints[name]) if value != getattr(default, name))


def _offered(hint: Any) -> list[Any]:
    if hint is bool:
        return [False, True]
    return [value for each in (hint, *get_args(hint)) if get_origin(each) is Literal for value in get_args(each)]


class Turns:
    """Hands each choice to the next command that takes it, and begins again when all had their turn.

    ``waiting``: those that had none yet; some never have, as they need a GPU or other images.
    """

    def __init__(self, file: Path) -> None:
        self.waiting = list(choices())
        self._file = file

    def of(self, words: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """A few choices that the training ``words`` takes together, as a file for ``--config`` has them."""
        taken = self._taken(words)
        if not taken:
            self.waiting += [choice for choice in choices() if choice not in self.waiting]
            taken = self._taken(words)
        self.waiting = [choice for choice in self.waiting if choice not in taken]
        return as_file(taken)

    def _taken(self, words: tuple[str, ...]) -> list[Choice]:
        taken: list[Choice] = []
        for choice in self.waiting:
            wanted = [*taken, *with_needs(choice)]
            if len(taken) < _AT_ONCE and _are_different(wanted) and takes(words, wanted, self._file):
                taken = wanted
        return taken


def as_file(taken: list[Choice]) -> dict[str, dict[str, Any]]:
    """What ``--config`` reads."""
    groups: dict[str, dict[str, Any]] = {}
    for group, name, value in taken:
        groups.setdefault(group, {})[name] = value
    return groups


def told(taken: dict[str, dict[str, Any]]) -> str:
    """The same for a report."""
    return " ".join(f"{name}={value}" for group in taken.values() for name, value in group.items())


def with_needs(choice: Choice) -> list[Choice]:
    """What means something with others alone comes with them."""
    match choice[:2]:
        case "run", "amp_dtype":
            return [("run", "amp", True), choice]
        case "attack", "norm":  # lengths are its own
            return [choice, ("attack", "eps", 1.0), ("attack", "step_size", 0.25)]
    return [choice]


def _are_different(taken: list[Choice]) -> bool:
    return len({choice[:2] for choice in taken}) == len(taken)


def takes(words: tuple[str, ...], taken: list[Choice], file: Path) -> bool:
    file.write_text(json.dumps(as_file(taken)))
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            return main([*words, "--config", str(file), "--dry-run"]) == 0
        except SystemExit as ended:
            return ended.code == 0
