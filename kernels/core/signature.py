"""An op's record of arguments: what its public function takes, and what ``torch.ops`` makes of it.

A record is a frozen dataclass, whose first field is the tensor that tells device and dtype. It is the one place where
an op's arguments stand in Python; the public function's signature, the schema and the order of values follow.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import wraps
from types import NoneType
from typing import Any, Generic, Literal, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

P = ParamSpec("P")
A = TypeVar("A")
R = TypeVar("R")

_TYPES: dict[Any, str] = {
    Tensor: "Tensor",
    list[Tensor]: "Tensor[]",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    torch.dtype: "ScalarType",
    torch.memory_format: "MemoryFormat",
}
_OR_TENSOR = "|Tensor"


def takes(arguments: Callable[P, A]) -> Callable[[Callable[[A], R]], Callable[P, R]]:
    """Makes of a function of a record one of its fields, with their defaults and their documentation."""

    def public(function: Callable[[A], R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(arguments(*args, **kwargs))

        returns = inspect.signature(function).return_annotation
        call.__signature__ = inspect.signature(arguments).replace(return_annotation=returns)  # type: ignore[attr-defined]
        described = (inspect.getdoc(arguments) or "").partition("\n\n")[2]
        call.__doc__ = f"{inspect.getdoc(function)}\n\n{described}"
        return call

    return public


def tensors_of(record: Any) -> list[Tensor]:
    """The tensors among a record's fields."""
    values = [getattr(record, name) for name in record.__dataclass_fields__]
    return [value for value in values if isinstance(value, Tensor)]


def choices_of(arguments: type[Any]) -> dict[str, tuple[str, ...]]:
    """Of each field that takes one of some words, the words."""
    hints = get_type_hints(arguments)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


class Signature(Generic[A]):
    """How ``torch.ops`` takes a record: its fields in their order, a tuple of tensors as its members.

    A schema has no type for "a number or a tensor". Such a field is two arguments there, ``float eps`` and, after all
    others, ``Tensor? eps_tensor=None``, which counts where there is one: a number that changes between the replays of
    a graph lies in a tensor on the device.
    """

    def __init__(self, arguments: type[A], writes: Sequence[str] = ()):
        self.arguments = arguments
        hints = get_type_hints(arguments)
        self._fields = tuple(field.name for field in fields(arguments))  # type: ignore[arg-type] # a dataclass
        self._tuples = {name: hints[name] for name in self._fields if hasattr(hints[name], "_fields")}
        types = dict(self._types(hints))
        self._numbers = tuple(place for place, kind in enumerate(types.values()) if kind.endswith(_OR_TENSOR))
        self._own = tuple(types)
        tensors = [f"{self._own[place]}_tensor" for place in self._numbers]
        self.names = (*self._own, *tensors)
        """Of all that ``torch.ops`` takes."""
        for alias, name in zip("abcdefgh", writes, strict=False):
            types[name] = types[name].replace("Tensor", f"Tensor({alias}!)")
        declared = [f"{kind.removesuffix(_OR_TENSOR)} {name}" for name, kind in types.items()]
        self.schema = f"({', '.join([*declared, *(f'Tensor? {name}=None' for name in tensors)])})"

    def _types(self, hints: dict[str, Any]) -> Iterator[tuple[str, str]]:
        for name in self._fields:
            if name in self._tuples:
                yield from ((member, "Tensor") for member in self._tuples[name]._fields)
            else:
                yield name, _schema_type(hints[name])

    def flat(self, record: A) -> list[Any]:
        """The values that ``torch.ops`` takes."""
        values = [getattr(record, name) for name in self._fields]
        for name in self._tuples:
            place = self._fields.index(name)
            values[place : place + 1] = values[place]
        for place in self._numbers:
            value = values[place]
            is_tensor = isinstance(value, Tensor)
            values.append(value if is_tensor else None)
            if is_tensor:
                values[place] = 0  # fits int and float
        return values

    def record(self, values: Sequence[Any]) -> A:
        """The record that :meth:`flat` was given; defaults at the end may be left out."""
        named = dict(zip(self.names, values, strict=False))
        for place in self._numbers:
            tensor = named.pop(f"{self._own[place]}_tensor", None)
            if tensor is not None:
                named[self._own[place]] = tensor
        for name, kind in self._tuples.items():
            named[name] = kind(*(named.pop(member) for member in kind._fields))
        return self.arguments(**named)


def _schema_type(hint: Any) -> str:
    """Of an annotation; that of a number that may be a tensor has an ending which says so."""
    if hint in _TYPES:
        return _TYPES[hint]
    if get_origin(hint) is Literal:
        return "str"
    match get_args(hint):
        case (one, last) if last is NoneType:
            return f"{_schema_type(one)}?"
        case (one, last) if last is Tensor:
            return f"{_schema_type(one)}{_OR_TENSOR}"
        case _:
            raise TypeError(f"{hint} has no type in a schema")
