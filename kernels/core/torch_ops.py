"""``torch.ops.fastiseat``: what torch.compile, CUDA graphs and autograd see of the kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastiseat.kernels.core.signature import Signature

A = TypeVar("A")

NAMESPACE = "fastiseat"
# One for the process: its registrations last as long as it does.
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


@dataclass(frozen=True, kw_only=True)
class Registration(Generic[A]):
    """How an op appears to PyTorch; its arguments are its record's, as :class:`Signature` lays them out."""

    returns: str
    """As a schema has it: ``Tensor``, ``(Tensor, Tensor)``, ``()``."""
    fake: Callable[[A], Any]
    """Results without values: shapes, dtypes and strides are those of a run."""
    writes: tuple[str, ...] = ()
    """The fields whose tensors are written to."""
    setup_context: Callable[[Any, A, Any], None] | None = None
    """From autograd's context, the record and the results; with ``backward``, for functional ops only."""
    backward: Callable[..., Mapping[str, Tensor | None]] | None = None
    """From the context and the results' gradients: the gradients by field, without those that have none."""
    once: bool = False
    """Whether autograd refuses to differentiate the gradients again."""

    def bind(self, name: str, arguments: type[A], serve: Callable[..., Any]) -> Callable[[A], Any]:
        """Define ``torch.ops.fastiseat.<name>``; what is returned calls it with a record.

        ``serve`` gets a function that makes the record, and the first of its values.
        """
        signature = Signature(arguments, self.writes)
        _LIBRARY.define(f"{name}{signature.schema} -> {self.returns}", tags=(torch.Tag.pt2_compliant_tag,))
        op = getattr(torch.ops.fastiseat, name).default
        written = [place for place, argument in enumerate(op._schema.arguments) if argument.is_write]

        def kernel(*args: Any) -> Any:  # all by position, whatever the caller did
            result = serve(lambda: signature.record(args), args[0])
            if written:
                _note_writes([args[place] for place in written if place < len(args)])
            return result

        # Below autograd and for every device: above it stands a formula for the gradient, or autograd's refusal.
        _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
        qualified = f"{NAMESPACE}::{name}"
        torch.library.register_fake(qualified, lambda *args: self.fake(signature.record(args)), lib=_LIBRARY)
        if self.backward is not None:
            self._differentiate(qualified, signature)
        return lambda record: op(*signature.flat(record))

    def _differentiate(self, qualified: str, signature: Signature[A]) -> None:
        setup, gradients = self.setup_context, self.backward
        assert setup is not None and gradients is not None, "one is of no use without the other"

        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            setup(ctx, signature.record(inputs), output)

        def backward(ctx: Any, *of_results: Tensor | None) -> tuple[Tensor | None, ...]:
            found = gradients(ctx, *of_results)
            return tuple(found.get(name) for name in signature.names)

        torch.library.register_autograd(
            qualified,
            once_differentiable(backward) if self.once else backward,
            setup_context=setup_context,
            lib=_LIBRARY,
        )


def _note_writes(written: list[Tensor | list[Tensor] | None]) -> None:
    """Tell autograd what a kernel wrote to behind its back, so that a backward pass that saved it fails."""
    tensors = [tensor for one in written for tensor in (one if isinstance(one, list) else [one])]
    given = [tensor for tensor in tensors if tensor is not None and not tensor.is_inference()]
    if given:
        torch.autograd.graph.increment_version(given)
