"""The compiled libraries: found beside this file and loaded at the first use, or absent for a stated reason.

One serves the CPU, one CUDA devices. Both have a flat C interface, which ``csrc/`` documents, and no torch inside.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastiseat.kernels.core.launches import announce

ABI_VERSION = 4
"""The number in ``csrc/fastiseat.h`` that this code was written against."""

FOLDER = Path(__file__).parent
LIBRARIES = {"cpu": FOLDER / "libfastiseat_native.so", "cuda": FOLDER / "libfastiseat_cuda.so"}
_NEEDS = {
    "cpu": "a C++ compiler and make",
    "cuda": "CUDA's compiler nvcc, a C++ compiler and make",
}

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""The codes of ``csrc/fastiseat.h`` for what an array holds."""


class Library(NamedTuple):
    """A loaded library, or None and why there is none."""

    handle: ctypes.CDLL | None
    missing: str


def load(path: Path, needs: str = _NEEDS["cpu"]) -> Library:
    """Load the library at ``path`` and check that it speaks this code's interface."""
    if not path.exists():
        return Library(None, f"not built: install {needs}, then install fastiseat again")
    try:
        handle = ctypes.CDLL(str(path))
        version = int(handle.fastiseat_abi_version())
    except (OSError, AttributeError) as error:
        return Library(None, f"cannot be loaded ({error}); install fastiseat again")
    if version != ABI_VERSION:
        return Library(None, f"has interface {version}, not {ABI_VERSION}; install fastiseat again")
    handle.fastiseat_error_name.restype = ctypes.c_char_p
    return Library(handle, "")


@cache
def library(device: str = "cpu") -> Library:
    """The library of this installation for a device type, loaded once."""
    if device not in LIBRARIES:
        return Library(None, f"not made for {device}")
    return load(LIBRARIES[device], _NEEDS[device])


def unsupported(device: str, dtype: torch.dtype) -> str:
    """Why native code serves no call on this device and dtype; empty when it can."""
    if device not in LIBRARIES or dtype not in DTYPES:
        return f"serves float32, bfloat16 and float16 on CPUs and CUDA devices, not {dtype} on {device}"
    missing = library(device).missing
    return missing and f"the native library: {missing}"


Argument = Tensor | int | float | None


def call(name: str, first: Tensor, *arguments: Argument) -> None:
    """Call ``fastiseat_<name>`` of the library for the device of ``first``; wait for no device.

    Tensors are handed over as pointers (None as NULL), ints as int64_t, floats as float, bools as int32_t. After
    ``arguments`` come, on a CPU, ``int32_t num_threads``, and for CUDA ``void *stream``, the current one. Raises
    RuntimeError for what the function returns other than 0.
    """
    announce(name)
    device = first.device.type
    handle = library(device).handle
    assert handle is not None, "unsupported() lets no call pass without the library"
    function = getattr(handle, f"fastiseat_{name}" if device == "cpu" else f"fastiseat_cuda_{name}")
    # A converted value keeps no tensor alive; those in `arguments` live until this returns.
    values = [_converted(argument) for argument in arguments]
    code = _launch(function, values, first)
    if code:
        reason = handle.fastiseat_error_name(code).decode()
        raise RuntimeError(f"{name} of the native library for {device}: {reason} ({code})")


def _launch(function: Callable[..., int], values: list[Any], first: Tensor) -> int:
    if first.device.type == "cpu":
        # Asked at every call: who sets the number of threads means what runs next.
        return function(*values, ctypes.c_int32(torch.get_num_threads()))
    # On the stream that PyTorch's own kernels take here: what they wrote is read after it was written, and memory that
    # is freed after this returns is handed on to work of this stream alone, which comes later.
    with torch.cuda.device(first.device):
        return function(*values, ctypes.c_void_p(torch.cuda.current_stream().cuda_stream))


def _converted(argument: Argument) -> Any:
    match argument:
        case None:
            return ctypes.c_void_p(None)
        case Tensor():
            return ctypes.c_void_p(argument.data_ptr())
        case bool():
            return ctypes.c_int32(argument)
        case int():
            return ctypes.c_int64(argument)
        case _:
            return ctypes.c_float(argument)
