"""Flat buffers for the tests of the ops on them, and each op by each of its backends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache

import pytest
import torch
from torch import Tensor

from fastiseat.kernels import Segments, ops
from fastiseat.kernels.core import triton_support
from fastiseat.kernels.core.dispatch import AnyOp
from fastiseat.kernels.core.segments import BLOCK
from fastiseat.kernels.core.signature import takes

# Sizes around a block's, one element, none, and more blocks than one; S = 7 and P = 9,216.
SIZES = (1500, 1024, 1, 3000, 7, 0, 1023)
PERTURBED = (True, True, False, True, False, True, True)
HALVES = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32, *HALVES)
BACKENDS = [
    pytest.param("native", "cpu", id="native-cpu"),
    pytest.param("triton", "cpu", id="triton-cpu"),
    pytest.param("native", "cuda", id="native-cuda", marks=pytest.mark.gpu),
    pytest.param("triton", "cuda", id="triton-cuda", marks=pytest.mark.gpu),
]


def segments(sizes: Sequence[int] = SIZES, perturbed: Sequence[bool] = PERTURBED, device: str = "cpu") -> Segments:
    return Segments.of(sizes, perturbed=perturbed, device=device)


@cache
def inside(sizes: Sequence[int] = SIZES) -> Tensor:
    """Which elements are no padding."""
    parts = [torch.arange(-(-size // BLOCK) * BLOCK) < size for size in sizes]
    return torch.cat(parts)


def buffer(seed: int, dtype: torch.dtype = torch.float32, *, scale: float = 1.0) -> Tensor:
    """Normal numbers, with zeros in the padding."""
    generator = torch.Generator().manual_seed(seed)
    mask = inside()
    return (torch.randn(len(mask), generator=generator, dtype=torch.float64) * scale * mask).to(dtype)


def of(table: Tensor, number: int) -> Tensor:
    """The part of a flat buffer that is one segment's, without padding."""
    start = int(segments().first_block[number]) * BLOCK
    return table[start : start + SIZES[number]]


def op_named(name: str) -> AnyOp:
    return next(op for op in ops() if op.name == name)


# Read when a kernel is first imported. A machine with a card runs the kernels themselves.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def require(backend: str, device: str) -> None:
    """Skip what a machine cannot run: Triton's interpreter without its variable, CUDA kernels with it."""
    if backend == "triton" and device == "cuda" and triton_support.interpreted():
        pytest.skip("TRITON_INTERPRET=1 is for CPUs")
    if backend == "triton" and device == "cpu" and not triton_support.interpreted():
        pytest.skip("with a card, only where TRITON_INTERPRET=1 asks for it")


def run_of(name: str, backend: str, device: str):
    """The function of one backend, asked first whether it serves the call."""
    require(backend, device)
    chosen = next(each for each in op_named(name).backends if each.name == backend)
    assert chosen.unsupported(device, torch.float32) == ""

    def run(call):
        assert chosen.unfit(call) == ""
        return chosen.run(call)

    return takes(op_named(name).arguments)(run)


def reference_of(name: str):
    """The function of the reference."""
    return takes(op_named(name).arguments)(op_named(name).reference)
