"""The compiled library: found beside this file and loaded at the first use, or absent for a stated reason."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import NamedTuple

ABI_VERSION = 1
"""The number in ``csrc/pgd_step.h`` that this code was written against."""

LIBRARY = Path(__file__).with_name("libfastiseat_native.so")


class Library(NamedTuple):
    """The loaded library, or None and why there is none."""

    handle: ctypes.CDLL | None
    missing: str


def load(path: Path) -> Library:
    """Load the library at ``path`` and check that it speaks this code's interface."""
    if not path.exists():
        return Library(None, "not built: install a C++ compiler and make, then install fastiseat again")
    try:
        handle = ctypes.CDLL(str(path))
        version = int(handle.fastiseat_abi_version())
    except (OSError, AttributeError) as error:
        return Library(None, f"cannot be loaded ({error}); install fastiseat again")
    if version != ABI_VERSION:
        return Library(None, f"has interface {version}, not {ABI_VERSION}; install fastiseat again")
    return Library(handle, "")


@cache
def library() -> Library:
    """The library of this installation, loaded once."""
    return load(LIBRARY)
