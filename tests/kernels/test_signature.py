"""A record of arguments: the public function, the schema and every implementation take the same ones."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any, get_type_hints

import pytest
import torch
from torch import Tensor

from fastiseat import kernels
from fastiseat.kernels import Segments
from fastiseat.kernels.core.dispatch import AnyOp
from fastiseat.kernels.core.signature import Signature, takes, tensors_of

OPS = [pytest.param(op, id=op.name) for op in kernels.ops()]
PUBLIC = [pytest.param(op, id=op.name) for op in kernels.ops() if op.name in kernels.__all__]


@dataclass(frozen=True)
class Example:
    """What :func:`example` takes.

    Args:
        a: first.
    """

    a: Tensor
    segments: Segments
    rate: float | Tensor
    count: int | Tensor = 3
    b: Tensor | None = None


def example() -> Example:
    return Example(torch.ones(1), Segments(*torch.zeros(3, 1).unbind()), 0.5)


@pytest.mark.parametrize("op", OPS)
def test_records_are_frozen_and_begin_with_a_tensor(op: AnyOp):
    first = fields(op.arguments)[0].name
    assert get_type_hints(op.arguments)[first] is Tensor
    with pytest.raises((FrozenInstanceError, TypeError)):  # which of them, depends on the slots
        setattr(object.__new__(op.arguments), first, None)


@pytest.mark.parametrize("op", OPS)
def test_torch_ops_takes_what_the_record_says(op: AnyOp):
    if op.backends:  # else nobody but the reference serves, which needs no registration
        schema = getattr(torch.ops.fastiseat, op.name).default._schema
        assert tuple(argument.name for argument in schema.arguments) == Signature(op.arguments).names


@pytest.mark.parametrize("op", PUBLIC)
def test_the_public_function_has_the_record_s_signature_and_documentation(op: AnyOp):
    function: Any = getattr(kernels, op.name)
    assert inspect.signature(function).parameters == inspect.signature(op.arguments).parameters
    for name in inspect.signature(function).parameters:
        assert f"\n    {name}: " in function.__doc__, name
    assert function.__name__ == op.name


def test_values_for_torch_ops_make_the_record_again():
    signature = Signature(Example)
    assert signature.names == (
        *("a", "block_segment", "first_block", "perturbed", "rate", "count", "b"),
        *("rate_tensor", "count_tensor"),
    )
    for given in (example(), Example(**vars(example()) | {"rate": torch.tensor(0.1), "b": torch.ones(2)})):
        values = signature.flat(given)
        assert len(values) == len(signature.names)
        again = signature.record(values)
        assert all(getattr(again, field.name) is getattr(given, field.name) for field in fields(Example)[2:])
        assert again.segments == given.segments
    assert signature.record(signature.flat(example())[:7]) == signature.record(signature.flat(example()))


def test_what_no_schema_has_is_an_error():
    @dataclass(frozen=True)
    class Wrong:
        a: Tensor
        where: complex

    with pytest.raises(TypeError, match=r"complex.* has no type in a schema"):
        Signature(Wrong)


def test_a_function_of_a_record_takes_its_fields():
    @takes(Example)
    def count(call: Example) -> int:
        """Counts."""
        return len(tensors_of(call))

    assert count(torch.ones(1), example().segments, rate=0.5) == 1
    assert count(torch.ones(1), example().segments, torch.tensor(0.5), b=torch.ones(1)) == 3
    assert count.__doc__ == "Counts.\n\nArgs:\n    a: first."
