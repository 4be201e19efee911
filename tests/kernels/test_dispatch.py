"""Which implementation serves: the choice, its one line in the log, forcing it, failures, the library's absence."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.kernels import pgd_step
from fastiseat.kernels.core import dispatch, native, triton_support
from fastiseat.kernels.core.dispatch import Backend, Op
from fastiseat.kernels.core.fit import unreadable


@dataclass(frozen=True)
class Double:
    x: Tensor
    scale: float = 2.0


def double(call: Double) -> str:
    return f"reference {call.scale * call.x.sum():g}"


def make_op(unsupported: str = "", unfit: str = "") -> Op:
    return Op(
        "double",
        Double,
        double,
        Backend(
            name="native",
            run=lambda call: f"native {call.scale * call.x.sum():g}",
            unsupported=lambda _, dtype: unsupported or ("" if dtype == torch.float32 else "float32 only"),
            unfit=lambda call: unfit,
        ),
    )


@pytest.fixture(autouse=True)
def free_choice(monkeypatch):
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)


@pytest.fixture
def force(monkeypatch):
    return lambda name: monkeypatch.setenv(dispatch.VARIABLE, name)


ONE = Double(torch.ones(1))
DOUBLE = Double(torch.ones(1).double())


def test_the_backend_serves_what_it_can():
    op = make_op()
    assert op(replace(ONE, scale=3.0)) == "native 3"
    assert op(DOUBLE) == "reference 2"


def test_a_call_that_does_not_fit_goes_to_the_reference():
    assert make_op(unfit="layout")(ONE) == "reference 2"


def test_the_choice_is_said_once_for_each_device_and_dtype(caplog):
    op = make_op()
    with caplog.at_level(logging.INFO, logger=dispatch.__name__):
        for _ in range(3):
            op(ONE)
            op(DOUBLE)
    assert caplog.messages == [
        "double on cpu, torch.float32: native",
        "double on cpu, torch.float64: reference (float64 is the reference's)",
    ]


@pytest.mark.parametrize(("name", "served_by"), [("reference", "reference"), ("native", "native"), ("", "native")])
def test_forced(force, name, served_by):
    force(name)
    assert make_op()(ONE) == f"{served_by} 2"


def test_the_variable_is_heeded_when_it_changes(force):
    op = make_op()
    assert op(ONE) == "native 2"
    force("reference")
    assert op(ONE) == "reference 2"


@pytest.mark.parametrize("op", [make_op(unsupported="no library"), make_op(unfit="no library")])
def test_a_forced_backend_never_gives_way(force, op):
    force("native")
    with pytest.raises(UserError, match=r"FASTISEAT_KERNELS=native cannot serve double: no library\. Unset"):
        op(ONE)


@pytest.mark.parametrize("name", ["", "native"])
def test_a_call_may_be_the_references_whatever_is_forced(force, name):
    force(name)
    native = make_op().backends[0]
    op = Op("double", Double, double, native, for_reference=lambda call: call.scale == 64)
    assert op(replace(ONE, scale=64)) == "reference 64"
    assert op(replace(ONE, scale=63)) == "native 63"


def test_forcing_what_the_op_does_not_have(force, caplog):
    force("native")
    with caplog.at_level("INFO"):
        assert Op("double", Double, double)(ONE) == double(ONE)
    assert caplog.messages == ["double on cpu, torch.float32: reference (it has no native implementation)"]


def test_a_misspelt_name(force):
    force("nativ")
    with pytest.raises(UserError, match="did you mean native"):
        make_op()(ONE)


@pytest.mark.parametrize("name", ["reference", "native"])
def test_both_implementations_of_a_real_op_agree(force, name):
    images, grad = torch.rand(3, 2, 5, 5), torch.randn(3, 2, 5, 5)
    expected = pgd_step(images, torch.zeros_like(images), grad, eps=0.1, step_size=0.05)
    force(name)
    actual = pgd_step(images, torch.zeros_like(images), grad, eps=0.1, step_size=0.05)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_float64_is_the_references_whatever_is_asked_for(force):
    force("native")
    assert make_op()(DOUBLE) == "reference 2"


def test_what_is_no_gain_serves_only_when_named(force):
    op = one_of(backend("triton", only_when_named=frozenset({"cpu"})))
    assert op(ONE) == "reference"
    assert op.explain("cpu", torch.float32) == (
        "reference",
        "triton: only where FASTISEAT_KERNELS=triton asks for it",
    )
    force("triton")
    assert op(ONE) == "triton"


def test_a_device_is_a_choice_of_its_own():
    seen: list[str] = []
    op = one_of(backend("native", unsupported=lambda device, dtype: seen.append(device) or ""))
    op(ONE)
    op.choice("meta", torch.float32)
    assert seen == ["cpu", "meta"]


def backend(name: str, run: Callable[..., Any] | None = None, **fields: Any) -> Backend:
    said = lambda x: name  # noqa: E731
    return Backend(
        name=name,
        run=run or said,
        **{"unsupported": lambda device, dtype: "", "unfit": lambda x: ""} | fields,
    )


def one_of(*backends: Backend) -> Op:
    return Op("op", Double, lambda call: "reference", *backends)


def broken(error: Exception) -> Callable[..., Any]:
    def run(call: Double) -> str:
        raise error

    return run


class TestFailures:
    def test_the_next_backend_serves_and_one_warning_says_so(self):
        op = one_of(backend("triton", broken(RuntimeError("no\n  compiler"))), backend("native"))
        with pytest.warns(RuntimeWarning) as caught:
            assert [op(ONE), op(ONE)] == ["native", "native"]
        assert [str(warning.message) for warning in caught] == [
            "the triton kernel of op failed on cpu, torch.float32 (no compiler); native serves from here on"
        ]
        assert op.explain(torch.device("cpu"), torch.float32) == ("native", "")

    def test_the_warning_points_at_the_caller(self):
        op = one_of(backend("triton", broken(ValueError())))
        with pytest.warns(RuntimeWarning, match=r"\(ValueError\); reference serves") as caught:
            op(ONE)
        assert caught[0].filename == __file__

    def test_where_all_fail_the_reference_serves(self):
        op = one_of(*(backend(name, broken(RuntimeError(name))) for name in ("triton", "native")))
        with pytest.warns(RuntimeWarning) as caught:
            assert op(ONE) == "reference"
        assert len(caught) == 2
        assert op.explain(torch.device("cpu"), torch.float32)[1] == (
            "triton: failed (triton); native: failed (native)"
        )

    def test_one_dtype_broken_is_no_reason_to_leave_another(self):
        def run(call: Double) -> str:
            if call.x.dtype == torch.float16:
                raise RuntimeError("no half")
            return "native"

        op = one_of(backend("native", run))
        with pytest.warns(RuntimeWarning, match="no half"):
            assert (op(Double(ONE.x.half())), op(ONE)) == ("reference", "native")

    def test_forced_it_is_an_error_each_time(self, force):
        force("triton")
        op = one_of(backend("triton", broken(RuntimeError("no compiler"))), backend("native"))
        for _ in range(2):
            with pytest.raises(UserError, match=r"cannot serve op: it failed \(no compiler\)\. Unset"):
                op(ONE)

    @pytest.mark.parametrize("error", [UserError("wrong"), torch.OutOfMemoryError(), torch.AcceleratorError()])
    def test_what_is_not_the_kernels_fault_passes_through(self, error):
        op = one_of(backend("triton", broken(error)), backend("native"))
        for _ in range(2):
            with pytest.raises(type(error)), warnings.catch_warnings():
                op(ONE)


def test_what_no_kernel_can_read():
    one, learned = torch.ones(1), torch.nn.Parameter(torch.ones(1))
    assert unreadable(one, None, learned) == "an argument requires grad"
    with torch.no_grad():
        assert unreadable(one, None, learned) == ""
    assert unreadable(one, torch.ones(2, device="meta")) == "the arguments lie on several devices"
    # A number on the host would be handed to a kernel of another device as a pointer.
    assert unreadable(torch.ones(2, device="meta"), torch.tensor(1.0)) == "the arguments lie on several devices"
    assert unreadable(torch.Tensor._make_subclass(type("Mine", (torch.Tensor,), {}), one)) == (
        "an argument is no plain tensor"
    )


class TestLoading:
    @pytest.mark.parametrize(
        ("device", "words"), [("cpu", "install a C++ compiler"), ("cuda", "install CUDA's compiler nvcc, a C++")]
    )
    def test_absent(self, monkeypatch, tmp_path, device, words):
        monkeypatch.setitem(native.LIBRARIES, device, tmp_path / "none.so")
        native.library.cache_clear()
        try:
            assert native.library(device).handle is None
            assert words in native.library(device).missing
            assert native.unsupported(device, torch.float32) == (
                f"the native library: {native.library(device).missing}"
            )
        finally:
            native.library.cache_clear()

    def test_not_a_library(self, tmp_path):
        path = tmp_path / "text.so"
        path.write_text("not a library")
        assert native.load(path).handle is None
        assert "cannot be loaded" in native.load(path).missing

    def test_another_interface(self, monkeypatch):
        current = native.ABI_VERSION
        monkeypatch.setattr(native, "ABI_VERSION", 99)
        assert native.load(native.LIBRARIES["cpu"]).handle is None
        assert native.load(native.LIBRARIES["cpu"]).missing == (
            f"has interface {current}, not 99; install fastiseat again"
        )

    def test_a_device_or_dtype_that_no_library_serves(self):
        assert native.library("meta").missing == "not made for meta"
        assert native.unsupported("meta", torch.float32).endswith("not torch.float32 on meta")
        assert native.unsupported("cpu", torch.float64).endswith("not torch.float64 on cpu")

    def test_a_function_that_is_not_there_is_an_error_of_the_call(self):
        with pytest.raises(AttributeError, match="fastiseat_none"):
            native.call("none", ONE.x)


class TestTriton:
    @pytest.fixture(autouse=True)
    def compiled(self, monkeypatch):
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)

    def test_without_a_card(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert triton_support.unsupported("cuda", torch.float32) == "there is no CUDA device"

    def test_not_installed(self, monkeypatch):
        monkeypatch.setattr(triton_support, "find_spec", lambda name: None)
        assert triton_support.unsupported("cuda", torch.float32) == "Triton is not installed"

    def test_a_cpu_has_the_interpreter_only(self, monkeypatch):
        assert "its interpreter serves a CPU" in triton_support.unsupported("cpu", torch.float32)
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        assert triton_support.unsupported("cpu", torch.float32) == ""
        assert "not torch.float64" in triton_support.unsupported("cpu", torch.float64)

    @pytest.mark.parametrize(
        ("card", "why"), [((7, 5), "needs compute capability 8.0, this card has 7.5"), ((9, 0), "")]
    )
    def test_old_cards(self, monkeypatch, card, why):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: card)
        assert triton_support.unsupported("cuda", torch.float32) == why

    def test_a_kernel_is_imported_when_it_is_called(self):
        late = triton_support.late("math", "hypot")
        assert late(3, 4) == 5
        with pytest.raises(ModuleNotFoundError):
            triton_support.late("fastiseat.kernels.none", "f")()
