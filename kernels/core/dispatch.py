"""Which implementation serves an op: chosen once for each op, device and dtype, and said once.

Every op has a reference in plain PyTorch, which defines its results, and may have faster backends. The
environment variable ``FASTISEAT_KERNELS`` names the one to use for every op that has it; where that one cannot
serve a call, the call is an error and never quietly served by another. Two things go to the reference whatever
the variable says: float64, which is for checking, and what a compiler cannot be shown otherwise.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from fastiseat.errors import UserError, unknown
from fastiseat.kernels.core.launches import announce
from fastiseat.kernels.core.signature import tensors_of
from fastiseat.kernels.core.torch_ops import Registration

VARIABLE = "FASTISEAT_KERNELS"
AUTO = "auto"
REFERENCE = "reference"
NAMES = (AUTO, REFERENCE, "triton", "native")

logger = logging.getLogger(__name__)

A = TypeVar("A")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Backend(Generic[A, R]):
    """A faster way to compute an op, from its record of arguments; its results are those of the reference."""

    name: str
    run: Callable[[A], R]
    """What it raises, it raises before it has written to an argument: another one is then asked to serve."""
    unsupported: Callable[[str, torch.dtype], str]
    """Why it serves no call at all on a device type and dtype; empty when it does."""
    unfit: Callable[[A], str]
    """Why it cannot serve one call (a layout, an autograd graph); empty when it can."""
    only_when_named: frozenset[str] = frozenset()
    """Device types on which it works, but is no gain: an interpreter, for one."""


_NOBODY = (None, None, None)


class _Fitted(threading.local):
    """What a thread is about to hand to ``torch.ops``: the op, its record, and the backend that was found to fit."""

    call: tuple[Any, Any, Any] = _NOBODY


_fitted = _Fitted()


class Op(Generic[A, R]):
    """An op: the record that its arguments make, its reference and its backends, the best first.

    The record's first field tells device and dtype. With a ``registration`` what a backend serves goes through
    ``torch.ops.fastiseat.<name>``: a compiler, a graph's recorder or autograd sees one op there, and its formula for
    the gradient is the registration's. ``for_reference`` tells calls that are the reference's whatever the variable
    says, where the first argument's dtype does not: those with float64 for a result.
    """

    def __init__(
        self,
        name: str,
        arguments: type[A],
        reference: Callable[[A], R],
        *backends: Backend[A, R],
        registration: Registration[A] | None = None,
        for_reference: Callable[[A], bool] | None = None,
    ):
        self.name = name
        self.arguments = arguments
        self._first = fields(arguments)[0].name  # type: ignore[arg-type] # a dataclass
        self.reference = reference
        self.backends = backends
        self.for_reference = for_reference
        self._choices: dict[tuple[str | torch.device, torch.dtype, str], Backend[A, R] | None] = {}
        self._broken: dict[tuple[str | torch.device, torch.dtype, str], str] = {}
        self._registered = registration.bind(name, arguments, self._served) if registration else None
        self._has_gradient = bool(registration and registration.backward)

    def __call__(self, call: A) -> R:
        """Serve the call with the chosen backend, or with the reference where it does not fit."""
        if torch.compiler.is_compiling():
            shown = self._registered is not None and self._traceable(call)
            return cast(R, (self._registered if shown else self.reference)(call))  # type: ignore[misc]
        backend = self._fitting(call)
        if backend is None:
            return self.reference(call)
        if self._registered is None:
            return self._serve(call, backend)
        # A mode may call the op with other arguments than these, or not at all.
        if _get_current_dispatch_mode() is None:
            _fitted.call = (self, call, backend)
        try:
            return cast(R, self._registered(call))
        finally:
            _fitted.call = _NOBODY

    def first(self, call: A) -> Tensor:
        """The argument that tells device and dtype."""
        found: Tensor = getattr(call, self._first)
        return found

    def choice(self, device: str | torch.device, dtype: torch.dtype, wanted: str = AUTO) -> Backend[A, R] | None:
        """The backend for a device and dtype, or None for the reference."""
        key = (device, dtype, wanted)
        try:
            return self._choices[key]
        except KeyError:
            backend, why = self._choose(*key)
        chosen = backend.name if backend else REFERENCE
        logger.info("%s on %s, %s: %s%s", self.name, device, dtype, chosen, f" ({why})" if why else "")
        self._choices[key] = backend
        return backend

    def explain(self, device: str | torch.device, dtype: torch.dtype, wanted: str = AUTO) -> tuple[str, str]:
        """The name of what :meth:`choice` picks, and why nothing faster; empty where nothing faster exists."""
        backend, why = self._choose(device, dtype, wanted)
        return backend.name if backend else REFERENCE, why

    def _served(self, record: Callable[[], A], first: Tensor) -> R:
        """What ``torch.ops`` runs. Where it was called from here, the backend is found already."""
        (op, call, backend), _fitted.call = _fitted.call, _NOBODY
        if op is not self or self.first(call) is not first:
            call = record()
            backend = self._fitting(call)
        return self._serve(call, backend)

    def _serve(self, call: A, backend: Backend[A, R] | None) -> R:
        first = self.first(call)
        while backend is not None:
            announce(self.name)
            try:
                with _current(first.device):
                    return backend.run(call)
            except (UserError, torch.OutOfMemoryError, torch.AcceleratorError):
                raise  # not the kernel's fault, or an error that the device repeats for whoever comes next
            except Exception as error:  # whatever a compiler or a driver raises
                self._give_up(backend, first, error)
            backend = self._fitting(call)
        return self.reference(call)

    def _traceable(self, call: A) -> bool:
        """Whether a compiler may see one op: not where the reference is asked for, or has the only gradient."""
        if self.first(call).dtype == torch.float64 or (self.for_reference and self.for_reference(call)):
            return False
        differentiated = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors_of(call))
        return self._has_gradient or not differentiated

    def _fitting(self, call: A) -> Backend[A, R] | None:
        """The backend for this call; None for the reference."""
        if self.for_reference is not None and self.for_reference(call):
            return None
        first = getattr(call, self._first)  # here and not by a call, since every call of an op comes here
        wanted = os.environ.get(VARIABLE) or AUTO
        backend = self.choice(first.device, first.dtype, wanted)
        if backend is None:
            return None
        problem = backend.unfit(call)
        if problem and wanted != AUTO:
            raise self._refusal(wanted, problem)
        return None if problem else backend

    def _give_up(self, backend: Backend[A, R], first: Tensor, error: Exception) -> None:
        """Never try ``backend`` again on this device and dtype, and say so; an error if it was asked for."""
        device, dtype = first.device, first.dtype
        reason = " ".join(str(error).split()) or type(error).__name__
        if os.environ.get(VARIABLE) == backend.name:
            raise self._refusal(backend.name, f"it failed ({reason})") from error
        self._broken[device, dtype, backend.name] = f"failed ({reason})"
        self._choices.pop((device, dtype, AUTO), None)
        instead = self.explain(device, dtype)[0]
        warnings.warn(
            f"the {backend.name} kernel of {self.name} failed on {device}, {dtype} ({reason}); "
            f"{instead} serves from here on",
            RuntimeWarning,
            stacklevel=_level_of_caller(),
        )

    def _choose(
        self, device: str | torch.device, dtype: torch.dtype, wanted: str
    ) -> tuple[Backend[A, R] | None, str]:
        if wanted not in NAMES:
            raise unknown(f"value of {VARIABLE}", wanted, NAMES)
        if wanted == REFERENCE:
            return None, f"{VARIABLE}={REFERENCE}"
        if self.backends and dtype == torch.float64:
            return None, "float64 is the reference's"
        if wanted != AUTO and wanted not in {backend.name for backend in self.backends}:
            return None, f"it has no {wanted} implementation"  # of the others the wish can still be granted
        passed_over = {}
        for backend in self.backends:
            if wanted in (AUTO, backend.name):
                problem = self._problem(backend, device, dtype, wanted)
                if not problem:
                    return backend, ""
                passed_over[backend.name] = problem
        if wanted != AUTO:
            raise self._refusal(wanted, passed_over[wanted])
        return None, "; ".join(f"{name}: {problem}" for name, problem in passed_over.items())

    def _problem(self, backend: Backend[A, R], device: str | torch.device, dtype: torch.dtype, wanted: str) -> str:
        if broken := self._broken.get((device, dtype, backend.name)):
            return broken
        device = torch.device(device)
        with _current(device):
            problem = backend.unsupported(device.type, dtype)
        if not problem and wanted == AUTO and device.type in backend.only_when_named:
            return f"only where {VARIABLE}={backend.name} asks for it"
        return problem

    def _refusal(self, wanted: str, problem: str) -> UserError:
        return UserError(
            f"{VARIABLE}={wanted} cannot serve {self.name}: {problem}. Unset {VARIABLE} for automatic choice"
        )


AnyOp = Op[Any, Any]


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a CUDA device the current one: kernels run there, whatever device their arguments lie on."""
    return torch.cuda.device(device) if device.type == "cuda" and device.index is not None else nullcontext()


def _level_of_caller() -> int:
    """The ``stacklevel`` of a warning in the calling function that points at whoever called the op."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and f"{frame.f_globals.get('__name__')}.".startswith(("fastiseat.kernels.", "torch.")):
        level, frame = level + 1, frame.f_back
    return level
