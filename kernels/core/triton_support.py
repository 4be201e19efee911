"""What every Triton backend shares: where it serves, and kernels that are imported only when they are called."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CAPABILITY = (8, 0)
"""The oldest compute capability that Triton supports."""
ONLY_WHEN_NAMED = frozenset({"cpu"})
"""On a CPU there is Triton's interpreter, which shows that a kernel is right and is slow."""


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter: read when they are first imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def unsupported(device: str, dtype: torch.dtype) -> str:
    """Why no Triton kernel serves this device and dtype; empty when one does."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    if dtype not in DTYPES:
        return f"serves float32, bfloat16 and float16, not {dtype}"
    if interpreted() and device in ("cpu", "cuda"):
        return ""
    if device != "cuda":
        return f"serves CUDA devices, not {device}; with TRITON_INTERPRET=1 its interpreter serves a CPU"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    found = torch.cuda.get_device_capability()
    if found < CAPABILITY:
        return f"needs compute capability {CAPABILITY[0]}.{CAPABILITY[1]}, this card has {found[0]}.{found[1]}"
    return ""


def late(module: str, name: str) -> Callable[..., Any]:
    """``name`` of ``module``, which is imported at the first call: Triton takes long and may be absent."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(module), name)(*args, **kwargs)

    return call
