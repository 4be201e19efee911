"""torch.compile of a reference has a figure where it compiles and is right, and where it is asked for."""

from dataclasses import fields, replace
from functools import partial

import pytest
import torch
from bench_case import CPU

from fastiseat.bench.inputs import images_of
from fastiseat.bench.kernels import compiled
from fastiseat.bench.kernels import suite as kernels
from fastiseat.errors import UserError
from fastiseat.kernels import ops
from fastiseat.kernels.core.dispatch import Op

# Inductor's own, of parts of PyTorch that it imports.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def nothing_compiled_before(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    for name in ("empty", "empty_like"):  # Inductor does not get along with the poisoned ones
        monkeypatch.setattr(torch, name, getattr(torch._C._VariableFunctions, name))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def only(monkeypatch):
    """Measure one op alone, by this reference if not its own."""

    def choose(name, reference=None):
        op = next(op for op in ops() if op.name == name)
        op = Op(name, op.arguments, reference or op.reference, *op.backends)
        monkeypatch.setattr(kernels, "ops", lambda: [op])
        return op

    return choose


@pytest.fixture
def compile_by(monkeypatch):
    """torch.compile without Inductor, which takes seconds."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def run(batch_size=6, backends=("compile",)):
    return kernels.run(
        images_of("digits"), batch_size, CPU, backends=backends, bandwidth=1e10, rounds=2, seconds=1e-4
    )


def test_a_reference_that_compiles_has_a_figure(only):
    only("pgd_step")
    reference, found = run()
    assert (reference["backend"], found["backend"]) == ("reference", "compile")
    assert not found["problem"]
    assert found["median"] > 0


def test_so_has_one_that_writes_into_its_arguments(only, compile_by):
    only("sgd")
    assert run()[1]["median"] > 0


@pytest.mark.parametrize(("device", "measured"), [("cpu", False), ("cuda", True)])
def test_without_a_name_it_is_measured_on_gpus_alone(only, device, measured):
    wanted = kernels._wanted(only("pgd_step"), call(), (), torch.device(device))
    assert (compiled.NAME in {backend.name for backend in wanted if backend}) == measured


def call():
    ((_, _, found),) = kernels._measured(images_of("digits"), 6, CPU)
    return found


@pytest.mark.parametrize("name", ["pgd_step", "sgd"])
def test_wrong_code_has_none(only, monkeypatch, name):
    op = only(name)

    def wrong(given):
        first = next(iter(fields(given))).name
        return op.reference(replace(given, **{first: op.first(given).clone() + (name == "pgd_step")}))

    monkeypatch.setattr(torch, "compile", lambda *_, **__: wrong)
    _, row = run()
    assert row["problem"].startswith("wrong: ")
    assert "median" not in row


def test_a_graph_break_is_no_figure(only, compile_by):
    def broken(given):
        torch._dynamo.graph_break()
        return given.images * 1

    only("pgd_step", broken)
    with pytest.raises(UserError, match=r"backend compile on cpu: absent: it failed .*graph_break"):
        run()


def test_nor_is_a_machine_without_a_compiler(only):
    op = only("pgd_step")
    with torch._inductor.config.patch("cpp.cxx", ("no-such-compiler",)):
        found = kernels.problem(compiled.compiled(op), call(), op)
    assert found.startswith("absent: it failed (")
    assert "no-such-compiler" in found


def test_nor_what_was_never_compiled(only):
    op = only("pgd_step")
    with torch._dynamo.config.patch(disable=True):
        found = kernels.problem(compiled.compiled(op), call(), op)
    assert found == "absent: TORCH_COMPILE_DISABLE is set"


def test_any_number_of_shapes_is_compiled(only, compile_by):
    only("pgd_step")
    for batch_size in range(2, 14):
        assert not run(batch_size)[1]["problem"]
