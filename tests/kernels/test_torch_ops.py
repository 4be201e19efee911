"""Ops as PyTorch sees them: one number or two arguments, gradients, compilers, what is written to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastiseat.kernels.core import dispatch
from fastiseat.kernels.core.dispatch import Backend, Op
from fastiseat.kernels.core.torch_ops import Registration

SCHEMA = "(Tensor a, Tensor? b, float factor, Tensor? factor_tensor=None) -> (Tensor, Tensor)"
calls: list[tuple[str, object]] = []


def scaled(a: Tensor, b: Tensor | None, *, factor: float | Tensor) -> tuple[Tensor, Tensor]:
    product = a * factor
    total = product if b is None else product + b
    return total, total.detach().sum()


def by_kernel(a: Tensor, b: Tensor | None, *, factor: float | Tensor) -> tuple[Tensor, Tensor]:
    calls.append(("kernel", factor))
    return scaled(a, b, factor=factor)


def fake(a: Tensor, b: Tensor | None, factor: float, factor_tensor: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return torch.empty_like(a), a.new_empty(())


def setup_context(ctx, inputs, output):
    _, b, factor, tensor = inputs
    ctx.factor, ctx.with_b = factor if tensor is None else tensor, b is not None
    ctx.mark_non_differentiable(output[1])


def backward(ctx, grad, _):
    return grad * ctx.factor, grad if ctx.with_b else None, None, None


def doubled_in_place(a: Tensor) -> None:
    a.mul_(2)


def doubled_behind_autograds_back(a: Tensor) -> None:
    a.detach().numpy()[:] *= 2


def native(run: Callable) -> Backend:
    return Backend(name="native", run=run, unsupported=lambda *_: "", unfit=lambda *_, **__: "")


# Registered once: a name lasts as long as the process.
SCALED = Op(
    "test_scaled",
    scaled,
    native(by_kernel),
    registration=Registration(
        schema=SCHEMA, fake=fake, numbers=("factor",), setup_context=setup_context, backward=backward
    ),
)
WITHOUT_GRADIENT = Op(
    "test_without_gradient",
    scaled,
    native(by_kernel),
    registration=Registration(schema=SCHEMA, fake=fake, numbers=("factor",)),
)
DOUBLED = Op(
    "test_doubled",
    doubled_in_place,
    native(doubled_behind_autograds_back),
    registration=Registration(schema="(Tensor(a!) a) -> ()", fake=lambda a: None),
)
FAILING = Op(
    "test_failing",
    scaled,
    native(lambda *_, **__: 1 / 0),
    registration=Registration(
        schema=SCHEMA, fake=fake, numbers=("factor",), setup_context=setup_context, backward=backward
    ),
)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    calls.clear()
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def a() -> Tensor:
    return torch.randn(3, requires_grad=True)


@pytest.mark.parametrize("factor", [3.0, torch.tensor(3.0)])
def test_a_number_reaches_the_kernel_as_it_was_given(factor):
    total, _ = SCALED(torch.ones(2), None, factor=factor)
    ((_, seen),) = calls
    assert (type(seen), float(seen)) == (type(factor), 3.0)
    assert total.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("factor", [3.0, torch.tensor(3.0)])
def test_gradients_are_those_of_the_reference(a, factor):
    b = torch.randn(3, requires_grad=True)
    served, expected = (
        [*torch.autograd.grad(f(a, b, factor=factor)[0].sin().sum(), (a, b))] for f in (SCALED, scaled)
    )
    assert len(calls) == 1
    torch.testing.assert_close(served, expected)


@pytest.mark.parametrize("kwargs", [{"factor": 2.0}, {"factor": 0.0, "factor_tensor": torch.tensor(2.0)}])
def test_opcheck(a, kwargs):
    torch.library.opcheck(torch.ops.fastiseat.test_scaled.default, (a, torch.ones(3)), kwargs)


def test_opcheck_of_one_that_writes():
    torch.library.opcheck(torch.ops.fastiseat.test_doubled.default, (torch.ones(3),))


def compiled(function: Callable) -> tuple[Callable, list[str]]:
    """The function compiled whole, and the ops that the compiler was shown."""
    shown: list[str] = []

    def backend(graph, inputs):
        shown.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    return torch.compile(function, fullgraph=True, backend=backend), shown


def is_one_op(shown: list[str]) -> bool:
    return any(name.startswith("fastiseat.test_") for name in shown)


def test_a_compiler_sees_one_op(a):
    function, shown = compiled(lambda a: SCALED(a, None, factor=2.0)[0].sin())
    torch.testing.assert_close(function(a), (2 * a).sin())
    assert is_one_op(shown)
    assert calls == [("kernel", 2.0)]


@pytest.mark.parametrize("op", [SCALED, WITHOUT_GRADIENT])
def test_a_compiler_sees_float64_as_the_reference(a, op):
    function, shown = compiled(lambda a: op(a, None, factor=2.0)[0].sin())
    function(a.detach().double())
    assert not is_one_op(shown)


def test_where_only_the_reference_has_a_gradient_a_compiler_sees_it(a):
    function, shown = compiled(lambda a: WITHOUT_GRADIENT(a, None, factor=2.0)[0].sum())
    function(a).backward()
    assert not is_one_op(shown)
    assert a.grad.tolist() == [2.0, 2.0, 2.0]
    shown.clear()
    with torch.no_grad():
        function(a)
    assert is_one_op(shown)


def test_autograd_hears_of_what_is_written():
    weights = torch.ones(2)
    before = weights._version
    DOUBLED(weights)
    assert (weights.tolist(), weights._version > before) == ([2.0, 2.0], True)
    factor = torch.ones(2, requires_grad=True)
    product = factor * weights
    DOUBLED(weights)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_what_is_written_is_written_in_compiled_code_too():
    function, shown = compiled(lambda a: DOUBLED(a))
    weights = torch.ones(2)
    function(weights)
    assert (weights.tolist(), is_one_op(shown)) == ([2.0, 2.0], True)


def test_a_failure_inside_of_autograd_leaves_its_gradient(a):
    with pytest.warns(RuntimeWarning, match="division by zero") as caught:
        total, _ = FAILING(a, None, factor=2.0)
    assert caught[0].filename == __file__
    total.sum().backward()
    assert a.grad.tolist() == [2.0, 2.0, 2.0]
