"""Ops as PyTorch sees them: one number or two arguments, gradients, compilers, what is written to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastiseat.kernels.core import dispatch
from fastiseat.kernels.core.dispatch import Backend, Op
from fastiseat.kernels.core.torch_ops import Registration

calls: list[tuple[str, object]] = []
asked: list[object] = []
"""The records that the backend was asked whether it serves."""


@dataclass(frozen=True)
class Arguments:
    a: Tensor
    b: Tensor | None
    _: KW_ONLY
    factor: float | Tensor


@dataclass(frozen=True)
class Doubling:
    a: Tensor


def scaled(call: Arguments) -> tuple[Tensor, Tensor]:
    product = call.a * call.factor
    total = product if call.b is None else product + call.b
    return total, total.detach().sum()


def by_kernel(call: Arguments) -> tuple[Tensor, Tensor]:
    calls.append(("kernel", call.factor))
    return scaled(call)


def fake(call: Arguments) -> tuple[Tensor, Tensor]:
    return torch.empty_like(call.a), call.a.new_empty(())


def setup_context(ctx, call, output):
    ctx.factor, ctx.with_b = call.factor, call.b is not None
    ctx.mark_non_differentiable(output[1])


def backward(ctx, grad, _):
    return {"a": grad * ctx.factor, "b": grad if ctx.with_b else None}


def doubled_in_place(call: Doubling) -> None:
    call.a.mul_(2)


def doubled_behind_autograds_back(call: Doubling) -> None:
    call.a.detach().numpy()[:] *= 2


def unfit(call: Any) -> str:
    asked.append(call)
    return ""


def native(run: Callable) -> Backend:
    return Backend(name="native", run=run, unsupported=lambda *_: "", unfit=unfit)


# Registered once: a name lasts as long as the process.
SCALED = Op(
    "test_scaled",
    Arguments,
    scaled,
    native(by_kernel),
    registration=Registration(
        returns="(Tensor, Tensor)", fake=fake, setup_context=setup_context, backward=backward
    ),
)
WITHOUT_GRADIENT = Op(
    "test_without_gradient",
    Arguments,
    scaled,
    native(by_kernel),
    registration=Registration(returns="(Tensor, Tensor)", fake=fake),
)
DOUBLED = Op(
    "test_doubled",
    Doubling,
    doubled_in_place,
    native(doubled_behind_autograds_back),
    registration=Registration(returns="()", fake=lambda call: None, writes=("a",)),
)
FAILING = Op(
    "test_failing",
    Arguments,
    scaled,
    native(lambda _: 1 / 0),
    registration=Registration(
        returns="(Tensor, Tensor)", fake=fake, setup_context=setup_context, backward=backward
    ),
)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    calls.clear()
    asked.clear()
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def a() -> Tensor:
    return torch.randn(3, requires_grad=True)


@pytest.mark.parametrize("factor", [3.0, torch.tensor(3.0)])
def test_a_number_reaches_the_kernel_as_it_was_given(factor):
    total, _ = SCALED(Arguments(torch.ones(2), None, factor=factor))
    ((_, seen),) = calls
    assert (type(seen), float(seen)) == (type(factor), 3.0)
    assert total.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("factor", [3.0, torch.tensor(3.0)])
def test_gradients_are_those_of_the_reference(a, factor):
    b = torch.randn(3, requires_grad=True)
    served, expected = (
        [*torch.autograd.grad(f(Arguments(a, b, factor=factor))[0].sin().sum(), (a, b))] for f in (SCALED, scaled)
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
    function, shown = compiled(lambda a: SCALED(Arguments(a, None, factor=2.0))[0].sin())
    torch.testing.assert_close(function(a), (2 * a).sin())
    assert is_one_op(shown)
    assert calls == [("kernel", 2.0)]


@pytest.mark.parametrize("op", [SCALED, WITHOUT_GRADIENT])
def test_a_compiler_sees_float64_as_the_reference(a, op):
    function, shown = compiled(lambda a: op(Arguments(a, None, factor=2.0))[0].sin())
    function(a.detach().double())
    assert not is_one_op(shown)


def test_where_only_the_reference_has_a_gradient_a_compiler_sees_it(a):
    function, shown = compiled(lambda a: WITHOUT_GRADIENT(Arguments(a, None, factor=2.0))[0].sum())
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
    DOUBLED(Doubling(weights))
    assert (weights.tolist(), weights._version > before) == ([2.0, 2.0], True)
    factor = torch.ones(2, requires_grad=True)
    product = factor * weights
    DOUBLED(Doubling(weights))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_what_is_written_is_written_in_compiled_code_too():
    function, shown = compiled(lambda a: DOUBLED(Doubling(a)))
    weights = torch.ones(2)
    function(weights)
    assert (weights.tolist(), is_one_op(shown)) == ([2.0, 2.0], True)


def test_a_failure_inside_of_autograd_leaves_its_gradient(a):
    with pytest.warns(RuntimeWarning, match="division by zero") as caught:
        total, _ = FAILING(Arguments(a, None, factor=2.0))
    assert caught[0].filename == __file__
    total.sum().backward()
    assert a.grad.tolist() == [2.0, 2.0, 2.0]


class TestWhetherABackendServes:
    """It is asked once a call, whoever calls."""

    def test_in_eager_mode(self, a):
        SCALED(Arguments(a, None, factor=2.0))
        assert len(asked) == 1

    def test_by_torch_ops(self):
        torch.ops.fastiseat.test_scaled(torch.ones(2), None, 2.0)
        assert len(asked) == 1

    def test_in_compiled_code(self, a):
        function, _ = compiled(lambda a: SCALED(Arguments(a, None, factor=2.0))[0])
        function(a)
        asked.clear()
        function(a)
        assert len(asked) == 1

    def test_a_mode_that_changes_the_arguments_is_heeded(self):
        class Tripled(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                if "test_scaled" in str(func):
                    args = (args[0], args[1], 3.0, *args[3:])
                return func(*args, **(kwargs or {}))

        with Tripled():
            assert SCALED(Arguments(torch.ones(2), None, factor=2.0))[0].tolist() == [3.0, 3.0]
        assert SCALED(Arguments(torch.ones(2), None, factor=2.0))[0].tolist() == [2.0, 2.0]

    def test_one_op_within_another_is_asked_for_itself(self):
        inner = Op(
            "test_inner",
            Doubling,
            lambda call: call.a * 0,
            native(lambda call: call.a + WITHOUT_GRADIENT(Arguments(call.a, None, factor=2.0))[0]),
            registration=Registration(returns="Tensor", fake=lambda call: torch.empty_like(call.a)),
        )
        assert inner(Doubling(torch.ones(2))).tolist() == [3.0, 3.0]
        assert [type(call) for call in asked] == [Doubling, Arguments]
