"""``torch.ops.fastiseat``: what torch.compile, CUDA graphs and autograd see of the kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NAMESPACE = "fastiseat"
# One for the process: its registrations last as long as it does.
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


@dataclass(frozen=True, kw_only=True)
class Registration:
    """How an op appears to PyTorch.

    A schema has no type for "a number or a tensor". An argument of ``numbers`` is two there, ``float eps, Tensor?
    eps_tensor``, of which the tensor counts where there is one: a number that changes between the replays of a
    graph lies in a tensor on the device.
    """

    schema: str
    """``(Tensor first, ...) -> ...`` with the reference's names, nothing keyword-only; tensors that are written to
    are ``Tensor(a!)``."""
    fake: Callable[..., Any]
    """Results without values, from the schema's arguments: shapes, dtypes and strides are those of a run."""
    numbers: tuple[str, ...] = ()
    setup_context: Callable[..., None] | None = None
    backward: Callable[..., Any] | None = None
    """With ``setup_context``, as ``torch.library.register_autograd`` takes them; for functional ops only."""

    def bind(self, name: str, serve: Callable[..., Any]) -> Callable[..., Any]:
        """Define ``torch.ops.fastiseat.<name>``; what is returned calls it with the arguments of ``serve``."""
        qualified = f"{NAMESPACE}::{name}"
        _LIBRARY.define(f"{name}{self.schema}", tags=(torch.Tag.pt2_compliant_tag,))
        op = getattr(torch.ops.fastiseat, name).default
        names = [argument.name for argument in op._schema.arguments]
        written = [place for place, argument in enumerate(op._schema.arguments) if argument.is_write]

        def kernel(*args: Any) -> Any:
            first, *others = args  # all by position, whatever the caller did; defaults at the end may be left out
            result = serve(first, **self._joined(dict(zip(names[1:], others, strict=False))))
            _note_writes([args[place] for place in written if place < len(args)])
            return result

        _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
        torch.library.register_fake(qualified, self.fake, lib=_LIBRARY)
        if self.backward is not None:
            torch.library.register_autograd(
                qualified, self.backward, setup_context=self.setup_context, lib=_LIBRARY
            )
        return lambda *args, **kwargs: op(*args, **self._split(kwargs))

    def _split(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """From one argument a number to two."""
        flat = dict(kwargs)
        for name in self.numbers:
            value = flat.get(name)
            if isinstance(value, Tensor):
                flat[name], flat[f"{name}_tensor"] = 0, value  # fits int and float
        return flat

    def _joined(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """From two arguments a number back to one."""
        joined = dict(kwargs)
        for name in self.numbers:
            tensor = joined.pop(f"{name}_tensor", None)
            if tensor is not None:
                joined[name] = tensor
        return joined


def _note_writes(written: list[Tensor | list[Tensor] | None]) -> None:
    """Tell autograd what a kernel wrote to behind its back, so that a backward pass that saved it fails."""
    tensors = [tensor for one in written for tensor in (one if isinstance(one, list) else [one])]
    given = [tensor for tensor in tensors if tensor is not None and not tensor.is_inference()]
    if given:
        torch.autograd.graph.increment_version(given)
