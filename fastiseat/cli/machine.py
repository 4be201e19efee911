"""The device that a command runs on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from fastiseat.errors import UserError
from fastiseat.kernels import FIRST_DTYPES, ops
from fastiseat.kernels.core import native
from fastiseat.kernels.core.dispatch import REFERENCE, VARIABLE, AnyOp
from fastiseat.shortage import enough_memory


def choose_device(name: str, *, deterministic: bool = False) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``; :class:`UserError` for one that is not here."""
    if deterministic:
        # cuBLAS reads this once, when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r}: cpu, cuda, cuda:N or auto is needed") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r}: training runs on cpu and cuda; use one of them or auto")
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise UserError(f"device {name!r}: this machine shows {torch.cuda.device_count()} GPUs; use cpu or auto")
    return device


@contextmanager
def memory_hint(batch_size: int, *, remedies: Sequence[str] = ()) -> Iterator[None]:
    """Turn running out of memory in the block into a :class:`UserError` that says what to do, ``remedies`` first."""
    told = "".join(f"add {remedy}, or " for remedy in remedies)
    with enough_memory(f"with batch_size={batch_size}", f"{told}lower --batch-size or take a smaller --arch"):
        yield


def without_native(device: torch.device) -> str:
    """What serves on ``device`` for want of the native library, and how to have it; empty where it is not missed."""
    missing = native.library(device.type).missing
    if not missing or os.environ.get(VARIABLE):
        return ""
    left = any(_left_to_pytorch(op, device) for op in ops())
    return f"PyTorch's own, which are slower: the native library is {missing}" if left else ""


def _left_to_pytorch(op: AnyOp, device: torch.device) -> bool:
    has_native = any(backend.name == "native" for backend in op.backends)
    return has_native and op.explain(device, FIRST_DTYPES.get(op.name, torch.float32))[0] == REFERENCE
