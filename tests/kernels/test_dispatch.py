"""Which implementation serves: the choice, its one line in the log, forcing it, and the library's absence."""

from __future__ import annotations

import logging

import pytest
import torch

from fastiseat.errors import UserError
from fastiseat.kernels import dispatch, native, pgd_step
from fastiseat.kernels.dispatch import Backend, Op


def double(x: torch.Tensor, *, scale: float = 2.0) -> str:
    return f"reference {scale * x.sum():g}"


def make_op(unsupported: str = "", unfit: str = "") -> Op:
    return Op(
        "double",
        double,
        Backend(
            name="native",
            run=lambda x, *, scale=2.0: f"native {scale * x.sum():g}",
            unsupported=lambda _, dtype: unsupported or ("" if dtype == torch.float32 else "float32 only"),
            unfit=lambda x, *, scale=2.0: unfit,
        ),
    )


@pytest.fixture(autouse=True)
def free_choice(monkeypatch):
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)


@pytest.fixture
def force(monkeypatch):
    return lambda name: monkeypatch.setenv(dispatch.VARIABLE, name)


ONE = torch.ones(1)


def test_the_backend_serves_what_it_can():
    op = make_op()
    assert op(ONE, scale=3.0) == "native 3"
    assert op(ONE.double()) == "reference 2"


def test_a_call_that_does_not_fit_goes_to_the_reference():
    assert make_op(unfit="layout")(ONE) == "reference 2"


def test_the_choice_is_said_once_for_each_device_and_dtype(caplog):
    op = make_op()
    with caplog.at_level(logging.INFO, logger=dispatch.__name__):
        for _ in range(3):
            op(ONE)
            op(ONE.double())
    assert caplog.messages == [
        "double on cpu, torch.float32: native",
        "double on cpu, torch.float64: reference (native: float32 only)",
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
    op = Op("double", double, native, for_reference=lambda x, *, scale=2.0: scale == 64)
    assert op(ONE, scale=64) == "reference 64"
    assert op(ONE, scale=63) == "native 63"


def test_forcing_what_the_op_does_not_have(force, caplog):
    force("native")
    with caplog.at_level("INFO"):
        assert Op("double", double)(ONE) == double(ONE)
    assert caplog.messages == ["double on cpu, torch.float32: reference (it has no native implementation)"]


def test_a_misspelt_name(force):
    force("nativ")
    with pytest.raises(UserError, match="did you mean native"):
        make_op()(ONE)


def test_a_compiler_sees_the_reference(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert make_op()(ONE) == "reference 2"


@pytest.mark.parametrize("name", ["reference", "native"])
def test_both_implementations_of_a_real_op_agree(force, name):
    if name == "native" and native.library().handle is None:
        pytest.skip(native.library().missing)
    images, grad = torch.rand(3, 2, 5, 5), torch.randn(3, 2, 5, 5)
    expected = pgd_step(images, torch.zeros_like(images), grad, eps=0.1, step_size=0.05)
    force(name)
    actual = pgd_step(images, torch.zeros_like(images), grad, eps=0.1, step_size=0.05)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_native_refuses_float64_by_name(force):
    force("native")
    zeros = torch.zeros(1, 1, dtype=torch.float64)
    with pytest.raises(UserError, match=r"serves float32 on the CPU, not torch\.float64 on cpu"):
        pgd_step(zeros, zeros, zeros, eps=0.1, step_size=0.1)


class TestLoading:
    def test_absent(self, tmp_path):
        assert native.load(tmp_path / "none.so").handle is None
        assert "install a C++ compiler" in native.load(tmp_path / "none.so").missing

    def test_not_a_library(self, tmp_path):
        path = tmp_path / "text.so"
        path.write_text("not a library")
        assert native.load(path).handle is None
        assert "cannot be loaded" in native.load(path).missing

    @pytest.mark.skipif(native.library().handle is None, reason=native.library().missing)
    def test_another_interface(self, monkeypatch):
        monkeypatch.setattr(native, "ABI_VERSION", 99)
        assert native.load(native.LIBRARY).handle is None
        assert native.load(native.LIBRARY).missing == "has interface 1, not 99; install fastiseat again"
