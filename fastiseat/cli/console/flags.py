"""A command's words as a dataclass: tyro's parser, with help that wraps and errors that name the nearest."""

from __future__ import annotations

import types
from collections.abc import Collection, Iterator, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import Positional, arg
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from fastiseat.cli.console.help import wrapped_output
from fastiseat.cli.console.hints import FLAG, HINTS
from fastiseat.config import NoPixelsError
from fastiseat.errors import UserError, unknown
from fastiseat.fields import check_types

Command = TypeVar("Command")


def command_line(
    kind: type[Command], words: Sequence[str], *, prog: str, default: Command | None = None
) -> Command:
    """``words`` as a ``kind``, a dataclass or a union of subcommands, over ``default``.

    ``--help`` and what can't be parsed end by ``SystemExit``, as tyro words it; an option that there is not, a choice
    that is none, an empty path and a number of no end raise :class:`~fastiseat.errors.UserError`.
    """
    parts = _parts(kind)
    if parts and words and not words[0].startswith("-") and words[0] not in parts:
        raise unknown(f"part of {prog}", words[0], parts)
    try:
        with wrapped_output():
            found, left = tyro.cli(
                kind,
                prog=prog,
                args=words,
                default=tyro.MISSING_NONPROP if default is None else default,
                return_unknown_args=True,
                registry=registry(),
            )
    except _ChoiceError as error:
        raise unknown(_option_of(error, kind, words), error.name, error.known) from None
    except NoPixelsError as error:
        raise UserError(f"{_before(error.word, words)} {error}".lstrip()) from None
    except _EmptyPathError:
        raise UserError(
            f"{_empty(kind, words) or prog}: its path is empty: name one; the current folder is ."
        ) from None
    if left:
        raise unexpected(left[0], prog, set(options(kind)))
    check_types(found)
    return cast(Command, found)


@lru_cache
def registry(*, completing: bool = False) -> ConstructorRegistry:
    """How tyro is to read our dataclasses and choices; ``completing`` to write a shell's completion instead."""
    rules = ConstructorRegistry()
    rules.struct_rule(_dataclass)
    rules.primitive_rule(partial(_choice, completing=completing))
    rules.primitive_rule(_path)
    return rules


def _dataclass(info: StructTypeInfo) -> StructConstructorSpec | None:
    """As tyro reads one of ours, but that help texts are paragraphs, which wrap at the terminal's width."""
    if not is_dataclass(info.type) or not info.type.__module__.startswith("fastiseat."):
        return None
    hints = get_type_hints(info.type, include_extras=True)
    return StructConstructorSpec(
        instantiate=cast(type, info.type),
        fields=tuple(
            StructFieldSpec(
                name=each.name,
                type=Annotated[hints[each.name], arg(help_behavior_hint=_default_in_words)],  # type: ignore[arg-type]
                default=_default(each, info.default),
                helptext=partial(_help, info.type, each.name),
            )
            for each in fields(info.type)
        ),
    )


def _default_in_words(label: str) -> str:
    return f"(default: {label or 'none'})"


def _default(of: Field[Any], instance: object) -> Any:
    if is_dataclass(instance):
        return getattr(instance, of.name)
    if of.default is not MISSING:
        return of.default
    return tyro.MISSING_NONPROP if of.default_factory is MISSING else of.default_factory()


def _help(kind: type, name: str) -> str | None:
    """The docstring below a field, of the class that has it, in one line."""
    for base in kind.__mro__:
        text = _docstrings(base).get(name)
        if text is not None:
            return " ".join(text.split())
    return None


@lru_cache
def _docstrings(kind: type) -> dict[str, str]:
    if kind is object:
        return {}
    from docstring_parser import parse_from_object  # reads the source: only where help is asked for

    found = parse_from_object(kind).params
    return {each.arg_name: each.description for each in found if each.description is not None}


def _choice(info: PrimitiveTypeInfo, *, completing: bool) -> PrimitiveConstructorSpec[Any] | None:
    """A Literal of strings, with or without None: a wrong one is told which are near."""
    words = _words(info.type)
    if words is None:
        return None

    def chosen(given: list[str]) -> str | None:
        if given[0] not in words:
            raise _ChoiceError(given[0], words)
        return words[given[0]]

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(words) + "}",
        instance_from_str=chosen,
        is_instance=lambda value: value in words.values(),
        str_from_instance=lambda value: [str(value)],
        choices=tuple(words) if completing else None,  # with these the parser words a mistake itself
    )


def _path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """As tyro reads one, but for the empty one, which would be the current folder."""
    if info.type is not Path:
        return None

    def path(given: list[str]) -> Path:
        if not given[0]:
            raise _EmptyPathError
        return Path(given[0])

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=path,
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


class _EmptyPathError(Exception):
    """Where a shell's variable is not set, most likely."""


def _empty(kind: Any, words: Sequence[str]) -> str:
    """The option that stands without its path; nothing where that is none, but what the command is about."""
    paths = {f"--{_name(hint, name)}".replace("_", "-") for name, hint in _leaves(kind) if Path in _kinds(hint)}
    spelt = [word.replace("_", "-") for word in words]
    alone = (word for word, following in zip(spelt, words[1:], strict=False) if not following)
    return next((word for word in (*alone, *(word.removesuffix("=") for word in spelt)) if word in paths), "")


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types that a field takes, or None."""
    kind = _bare(hint)
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


class _ChoiceError(Exception):
    """A word that is no choice, of an option that the parser does not tell here."""

    def __init__(self, name: str, known: Collection[str]) -> None:
        self.name, self.known = name, known


def _option_of(error: _ChoiceError, kind: Any, words: Sequence[str]) -> str:
    """The option among ``words`` that has these choices; what stands without one is called a choice."""
    given = {word.partition("=")[0].replace("_", "-") for word in words}
    for name, hint in _leaves(kind):
        flag = next(_names(name, hint), "")
        if flag in given and error.known == _element_words(hint):
            return flag
    return "choice"


def _before(value: str, words: Sequence[str]) -> str:
    """The option that ``value`` stands behind among ``words``."""
    for option, word in zip(words, [*words[1:], ""], strict=True):
        if value in (word, option.partition("=")[2]) and option.startswith("--"):
            return option.partition("=")[0]
    return ""


def _element_words(hint: Any) -> dict[str, str | None] | None:
    """The choices of a field, or of each of the words that it takes."""
    kind = _bare(hint)
    return _words(get_args(kind)[0] if get_origin(kind) is tuple else kind)


def _words(kind: Any) -> dict[str, str | None] | None:
    """What may be written for a Literal of strings or None, and what it stands for; None for another type."""
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    literals = [each for each in kinds if get_origin(each) is Literal]
    if len(literals) != 1 or len(kinds) > 1 + (type(None) in kinds):
        return None
    nothing: dict[str, str | None] = {"None": None} if type(None) in kinds else {}
    return nothing | {str(value): value for value in get_args(literals[0])}


def unexpected(word: str, prog: str, options: Collection[str]) -> UserError:
    """The error for a word that stands for nothing."""
    name = word.partition("=")[0].replace("_", "-")
    if not name.startswith("--"):
        return UserError(f"unexpected {word!r}: {prog} --help tells what may stand there")
    hint = HINTS.get(name, "")
    if hint and all(flag in options for flag in FLAG.findall(hint)):
        return UserError(f"unknown option {name}; {hint}")
    return unknown("option", name, options, otherwise=f"{prog} --help lists all")


def options(kind: Any) -> Iterator[str]:
    """The options that a dataclass, or a union of some, has."""
    for name, hint in _leaves(kind):
        yield from _names(name, hint)


def _leaves(kind: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a dataclass and of those in it, or of all those of a union of subcommands, with their types."""
    kind = _bare(kind)
    for part in get_args(kind):
        yield from _leaves(part)
    if not is_dataclass(kind):
        return
    hints = get_type_hints(kind, include_extras=True)
    for name, hint in ((each.name, hints[each.name]) for each in fields(kind)):
        yield from _leaves(hint) if is_dataclass(_bare(hint)) else [(name, hint)]


def _parts(kind: Any) -> list[str]:
    """The subcommands of a union."""
    return [_name(each) for each in get_args(kind) if get_origin(each) is Annotated]


def _name(hint: Any, otherwise: str = "") -> str:
    """What ``arg(name=...)`` or ``subcommand(name=...)`` calls it."""
    names = [extra.name for extra in getattr(hint, "__metadata__", ()) if getattr(extra, "name", None)]
    return str(names[-1]) if names else otherwise


def _names(name: str, hint: Any) -> Iterator[str]:
    if Positional in getattr(hint, "__metadata__", ()):
        return
    flag = _name(hint, name).replace("_", "-")
    yield f"--{flag}"
    if hint is bool:  # and not FlagCreatePairsOff[bool]
        yield f"--no-{flag}"


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint
