"""Every option of every command, as the parsers have them."""

from collections.abc import Iterator
from importlib import import_module
from typing import Annotated, Any, get_args, get_origin

from fastiseat.cli import COMMANDS
from fastiseat.cli.console.flags import _kinds, _leaves, _names, _parts


def options(beginnings: dict[str, list[str]]) -> Iterator[tuple[list[str], str, Any]]:
    """The words before each option of each command, the option, and what it takes.

    ``beginnings`` has the words that a command needs before it looks at an option.
    """
    for command in COMMANDS:
        kind = import_module(f"fastiseat.cli.{command}").ARGUMENTS
        parts = zip(_parts(kind), get_args(kind), strict=True) if _parts(kind) else [(None, kind)]
        for part, of in parts:
            words = [command, *([part, "digits"] if part else []), *beginnings.get(command, [])]
            for name, hint in _leaves(of):
                for flag in list(_names(name, hint))[:1]:
                    yield words, flag, hint


def takes(hint: Any, kind: type) -> bool:
    """Whether it takes one, or several."""
    return any(
        each is kind or (get_origin(each) is Annotated and get_args(each)[0] is kind) or kind in get_args(each)
        for each in _kinds(hint)
    )
