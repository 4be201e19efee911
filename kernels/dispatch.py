"""Which implementation serves an op: chosen once for each op, device and dtype, and said once.

Every op has a reference in plain PyTorch, which defines its results, and may have faster backends. The
environment variable ``FASTISEAT_KERNELS`` names the one to use for every op that has it; where that one cannot
serve a call, the call is an error and never quietly served by another.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

from fastiseat.errors import UserError, unknown

VARIABLE = "FASTISEAT_KERNELS"
AUTO = "auto"
REFERENCE = "reference"
NAMES = (AUTO, REFERENCE, "native")

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Backend(Generic[P, R]):
    """A faster way to compute an op; its results are those of the reference."""

    name: str
    run: Callable[Concatenate[Tensor, P], R]
    unsupported: Callable[[str, torch.dtype], str]
    """Why it serves no call at all on a device type and dtype; empty when it does."""
    unfit: Callable[Concatenate[Tensor, P], str]
    """Why it cannot serve one call (a layout, an autograd graph); empty when it can."""


class Op(Generic[P, R]):
    """An op: its reference and its backends, the best first. The first argument tells device and dtype."""

    def __init__(self, name: str, reference: Callable[Concatenate[Tensor, P], R], *backends: Backend[P, R]):
        self.name = name
        self.reference = reference
        self.backends = backends
        self._choices: dict[tuple[str, torch.dtype, str], Backend[P, R] | None] = {}

    def __call__(self, first: Tensor, *args: P.args, **kwargs: P.kwargs) -> R:
        """Serve the call with the chosen backend, or with the reference where it does not fit."""
        if torch.compiler.is_compiling():  # a compiler fuses the reference itself, and sees into no library
            return self.reference(first, *args, **kwargs)
        wanted = os.environ.get(VARIABLE) or AUTO
        backend = self.choice(first.device.type, first.dtype, wanted)
        if backend is None:
            return self.reference(first, *args, **kwargs)
        if problem := backend.unfit(first, *args, **kwargs):
            if wanted != AUTO:
                raise self._refusal(wanted, problem)
            return self.reference(first, *args, **kwargs)
        return backend.run(first, *args, **kwargs)

    def choice(self, device: str, dtype: torch.dtype, wanted: str = AUTO) -> Backend[P, R] | None:
        """The backend for a device type and dtype, or None for the reference."""
        key = (device, dtype, wanted)
        if key not in self._choices:
            backend, why = self._choose(*key)
            chosen = backend.name if backend else REFERENCE
            logger.info("%s on %s, %s: %s%s", self.name, device, dtype, chosen, f" ({why})" if why else "")
            self._choices[key] = backend
        return self._choices[key]

    def explain(self, device: str, dtype: torch.dtype, wanted: str = AUTO) -> tuple[str, str]:
        """The name of what :meth:`choice` picks, and why nothing faster; empty where nothing faster exists."""
        backend, why = self._choose(device, dtype, wanted)
        return backend.name if backend else REFERENCE, why

    def _choose(self, device: str, dtype: torch.dtype, wanted: str) -> tuple[Backend[P, R] | None, str]:
        if wanted not in NAMES:
            raise unknown(f"value of {VARIABLE}", wanted, NAMES)
        if wanted == REFERENCE:
            return None, f"{VARIABLE}={REFERENCE}"
        if wanted != AUTO and wanted not in {backend.name for backend in self.backends}:
            return None, f"it has no {wanted} implementation"  # of the others the wish can still be granted
        passed_over = {}
        for backend in self.backends:
            if wanted in (AUTO, backend.name):
                problem = backend.unsupported(device, dtype)
                if not problem:
                    return backend, ""
                passed_over[backend.name] = problem
        if wanted != AUTO:
            raise self._refusal(wanted, passed_over[wanted])
        return None, "; ".join(f"{name}: {problem}" for name, problem in passed_over.items())

    def _refusal(self, wanted: str, problem: str) -> UserError:
        return UserError(
            f"{VARIABLE}={wanted} cannot serve {self.name}: {problem}. Unset {VARIABLE} for automatic choice"
        )
