"""numpy's scalars, dtypes and arrays beside the tensors of a torch file.

They are numbers, text and dates, which do no harm; what numpy itself makes of a pickle's arguments may. As in
:mod:`fastiseat.safe.unpickle`, code of this library stands in for it.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from fastiseat.safe.unpickle import Array, Dtype, as_text

# Numbers, truth values, text, bytes and dates; no objects and no records.
_KINDS = re.compile(r"[<>|=]?(?:[iu][1248]|f(?:[248]|12|16)|c(?:8|16|24|32)|b1|[SUV]\d{1,6}|[mM]8)")
_UNITS = ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as", "generic")


class AnyDtype(Dtype):
    """Stands in for ``numpy.dtype`` of all but objects and records."""

    @staticmethod
    def named(name: str) -> np.dtype[Any]:
        """The dtype of that name."""
        if not _KINDS.fullmatch(name):
            raise pickle.UnpicklingError(f"GLOBAL numpy.dtype({name!r})")
        return np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # The sizes that follow are those of the name, unless somebody changed them: they are not read.
        _, order, subarray, names, fields, _, _, _, *unit = state
        if (subarray, names, fields) != (None, None, None):
            raise pickle.UnpicklingError("GLOBAL numpy.dtype of records")
        ordered = self.named(as_text(order) + self.dtype.str[1:])
        self.dtype = _in_units(ordered, *unit[0][1][:2]) if unit else ordered


def _in_units(dtype: np.dtype[Any], unit: str | bytes, count: int) -> np.dtype[Any]:
    name = as_text(unit)
    if name not in _UNITS or type(count) is not int or not 0 < count < 2**31:
        raise pickle.UnpicklingError("GLOBAL numpy.dtype of an unknown unit")
    return dtype if name == "generic" else np.dtype(f"{dtype.str}[{count}{name}]")


def _scalar(dtype: AnyDtype, raw: bytes) -> Any:
    if not dtype.dtype.itemsize:
        return dtype.dtype.type()
    return Array().fill(raw, dtype, (), "C").array[()]


def _reconstruct(kind: object, shape: object, code: object) -> Array:
    return Array()


def _from_buffer(raw: Any, dtype: AnyDtype, shape: Any, order: Any) -> Array:
    return Array().fill(raw, dtype, shape, order)


def _no_bytes() -> bytes:
    return b""


def _stand_ins() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {"numpy.dtype": AnyDtype, "numpy.ndarray": Array}
    # Protocol 2 has no other way to spell no bytes.
    found |= {"builtins.bytes": _no_bytes, "__builtin__.bytes": _no_bytes}
    for core in ("numpy.core", "numpy._core"):
        found[f"{core}.multiarray.scalar"] = _scalar
        found[f"{core}.multiarray._reconstruct"] = _reconstruct
        found[f"{core}.numeric._frombuffer"] = _from_buffer
    # The types themselves, where somebody noted numpy.float32. Those of bytes would take any memory that is asked for.
    types = [
        kind for kind in set(np.sctypeDict.values()) if not issubclass(kind, (np.object_, np.bytes_, np.void))
    ]
    return found | {f"numpy.{name}": kind for kind in types for name in {kind.__name__, f"{kind.__name__}_"}}


@contextmanager
def numpy_values() -> Iterator[None]:
    """Have ``torch.load`` take them with ``weights_only=True``; what a caller has allowed is as before afterwards."""
    ours, before = _stand_ins(), torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([each for each in before if _name(each) not in ours])
    torch.serialization.add_safe_globals([(make, name) for name, make in ours.items()])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _name(allowed: Any) -> str:
    """As torch calls what a caller allows."""
    return allowed[1] if isinstance(allowed, tuple) else f"{allowed.__module__}.{allowed.__qualname__}"


def as_numpy(value: object) -> object:
    """What a stand-in stands for; any other value itself."""
    match value:
        case Array():
            return value.array
        case Dtype():
            return value.dtype
    return value
