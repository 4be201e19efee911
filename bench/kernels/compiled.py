"""What ``torch.compile`` makes of an op's reference, as a backend beside the op's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from fastiseat.kernels.core.dispatch import Backend, Op

NAME = "compile"


def compiled(op: Op[Any, Any]) -> Backend[Any, Any]:
    """In one graph and for these very shapes: Inductor at its best. It compiles when it is first called.

    On a CPU that takes seconds an op, and is done where it is asked for by name.
    """

    @cache
    def function() -> Callable[..., Any]:
        return torch.compile(op.reference, fullgraph=True, dynamic=False)

    return Backend(
        name=NAME,
        run=lambda call: function()(call),
        unsupported=_unsupported,
        unfit=lambda _: "",
        only_when_named=frozenset({"cpu"}),
    )


def start_over() -> None:
    """Forget what was compiled: after a few shapes of one function the compiler would refuse the next."""
    if "torch._dynamo" in sys.modules:  # which takes seconds to import
        torch.compiler.reset()


def _unsupported(_device: str, _dtype: torch.dtype) -> str:
    """Without its compiler PyTorch runs the reference itself, and says nothing."""
    return "TORCH_COMPILE_DISABLE is set" if torch._dynamo.config.disable else ""
