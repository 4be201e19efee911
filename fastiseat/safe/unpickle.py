"""Pickles of data sets, read without executing what is in them: numpy arrays and plain containers, no more.

numpy's own functions for rebuilding arrays trust their arguments (a dtype's state can declare bytes to be object
pointers), so none of them is called: what a pickle names is replaced by code of this file, which takes numbers
of plain dtypes only.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fastiseat.errors import UserError

_NUMBERS = re.compile(r"[<>|=]?(?:[iu][1248]|f[248]|b1)")

# An array takes four; Python bears some 50,000, one within the other.
_MOST_TUPLES = 20_000


class _RefusedError(Exception):
    """The pickle asks for something beyond numbers and containers."""


class Dtype:
    """Stands in for ``numpy.dtype``: the name of a number type, and the byte order that its state adds."""

    def __init__(self, name: str | bytes, align: object = False, copy: object = True) -> None:
        self.dtype = self.named(as_text(name))

    @staticmethod
    def named(name: str) -> np.dtype[Any]:
        """The dtype of that name, one of plain numbers."""
        if not _NUMBERS.fullmatch(name):
            raise _RefusedError(f"an array of dtype {name!r}")
        return np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, subarray, names, fields, size, alignment, *flags = state
        if (subarray, names, fields, size, alignment, *flags) != (None, None, None, -1, -1, 0):
            raise _RefusedError("a dtype of more than plain numbers")
        if as_text(order) not in ("<", ">", "|", "="):
            raise _RefusedError(f"a dtype of byte order {as_text(order)!r}")
        self.dtype = np.dtype(as_text(order) + self.dtype.str[1:])


class Array:
    """Stands in for a ``numpy.ndarray``: empty at first, filled by its state."""

    def __init__(self) -> None:
        self.array: npt.NDArray[Any] = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        self.fill(content, dtype, shape, "F" if fortran else "C")

    def fill(self, content: Any, dtype: Dtype, shape: Any, order: Any) -> Array:
        """Take the numbers that ``content``, bytes or Python 2's string, holds."""
        raw = content.encode("latin1") if isinstance(content, str) else content
        self.array = np.frombuffer(memoryview(raw).toreadonly(), dtype.dtype).reshape(shape, order=order)
        return self


def as_text(value: str | bytes) -> str:
    """A string of Python 2 or 3."""
    return value.decode("latin1") if isinstance(value, bytes) else value


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _RefusedError(f"text in {encoding!r}")
    return text.encode("latin1")


def _replacements() -> dict[tuple[str, str], Callable[..., Any]]:
    """What each allowed name means. Made anew for every pickle, which could set attributes of what it gets."""
    allowed: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "dtype"): lambda *state: Dtype(*state),
        ("numpy", "ndarray"): lambda: Array(),
        # How protocol 2 spells the bytes of Python 3.
        ("_codecs", "encode"): lambda text, encoding: _encode(text, encoding),
    }
    for core in ("numpy.core", "numpy._core"):
        allowed[f"{core}.multiarray", "_reconstruct"] = lambda kind, shape, code: Array()
        allowed[f"{core}.multiarray", "scalar"] = lambda dtype, raw: Array().fill(raw, dtype, (), "C").array[()]
        allowed[f"{core}.numeric", "_frombuffer"] = lambda raw, dtype, shape, order: Array().fill(
            raw, dtype, shape, order
        )
    return allowed


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self._allowed = _replacements()

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in self._allowed:
            raise _RefusedError(f"{module}.{name}")
        return self._allowed[module, name]


def may_nest_deeply(content: bytes | BinaryIO) -> bool:
    """Whether a pickle, the next one of a file, might put tuples into tuples so deep that Python crashes.

    It does where one is a dict's key: hashes of tuples are computed on the stack.
    """
    tuples = 0
    with suppress(Exception), warnings.catch_warnings():  # damaged from there on, which its reader tells
        warnings.simplefilter("ignore")
        for opcode, _, _ in pickletools.genops(content):
            tuples += opcode.name.startswith("TUPLE")
    return tuples > _MOST_TUPLES


def _check_sizes(content: bytes) -> None:
    """Refuse what would claim memory that ``content`` does not fill: strings longer than it, a memo of more places;
    and what would claim too much of the stack.
    """
    if may_nest_deeply(content):
        raise _RefusedError(f"more than {_MOST_TUPLES:,} tuples")
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise _RefusedError(f"place {argument} of its memo")


def read_pickle(content: bytes, where: str) -> dict[str, Any]:
    """The dict that a pickle holds, of Python 2 or 3, its arrays read-only; ``where`` begins the messages.

    Raises:
        UserError: damaged bytes, anything but a dict, or a pickle that names more than numbers and containers.
    """
    try:
        _check_sizes(content)
        loaded = _Unpickler(content).load()
    except _RefusedError as error:
        raise UserError(
            f"{where}: a pickle of more than arrays and plain containers ({error}); nothing in it was executed; "
            "fetch the official file"
        ) from None
    except Exception as error:  # damaged bytes make an unpickler fail in too many ways to list
        raise UserError(f"{where}: damaged or truncated ({type(error).__name__}); fetch it again") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{where}: holds a {type(loaded).__name__}, not a dict; fetch the official file")
    return {
        as_text(key): value.array if isinstance(value, Array) else value
        for key, value in loaded.items()
        if isinstance(key, str | bytes)
    }
