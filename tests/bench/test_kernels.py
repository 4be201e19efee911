"""Every op has its call, and a wrong or absent backend has no figure."""

import pytest
from bench_case import CPU

from fastiseat.bench import kernel_calls, kernels
from fastiseat.bench.inputs import images_of
from fastiseat.errors import UserError
from fastiseat.kernels import dispatch, ops

FIGURES = {"median", "seconds", "share_of_bandwidth"}


@pytest.fixture(autouse=True)
def few_channels(monkeypatch):
    """Triton's interpreter is slow, where it takes part."""
    monkeypatch.setattr(kernel_calls, "_CHANNELS", 2)


def run(dataset="cifar10", **settings):
    return kernels.run(images_of(dataset), 6, CPU, bandwidth=1e10, rounds=2, seconds=1e-4, **settings)


def test_every_op_is_measured():
    assert set(kernel_calls.CALLS) == {op.name for op in ops()}
    rows = run()
    assert {row["op"] for row in rows} == set(kernel_calls.CALLS)
    assert all(row.keys() >= FIGURES for row in rows if not row["problem"])
    references = [row for row in rows if row["backend"] == "reference"]
    assert len(references) == len(kernel_calls.CALLS)


def test_an_op_without_use_for_the_images_is_left_out():
    assert {row["op"] for row in run("digits")} == set(kernel_calls.CALLS) - {"idbh"}


@pytest.fixture
def plant(monkeypatch):
    op = next(op for op in ops() if op.name == "pgd_step")

    def put(run=op.reference, unsupported="", unfit=""):
        backend = dispatch.Backend(
            name="native", run=run, unsupported=lambda *_: unsupported, unfit=lambda *_, **__: unfit
        )
        monkeypatch.setattr(op, "backends", (backend,))
        return op

    return put


def row_of(rows, backend):
    return next(row for row in rows if (row["op"], row["backend"]) == ("pgd_step", backend))


def test_a_wrong_kernel_has_no_figure(plant):
    op = plant(run=lambda images, delta, grad, **scalars: op.reference(images, delta, -grad, **scalars))
    rows = run()
    assert row_of(rows, "native")["problem"].startswith("wrong: ")
    assert not FIGURES & row_of(rows, "native").keys()
    assert row_of(rows, "reference").keys() >= FIGURES


def test_a_right_kernel_has(plant):
    plant()
    assert row_of(run(), "native").keys() >= FIGURES


@pytest.mark.parametrize("why", ["unsupported", "unfit"])
def test_an_absent_kernel_has_none(plant, why):
    plant(**{why: "no such card"})
    row = row_of(run(), "native")
    assert row["problem"] == "absent: no such card"
    assert not FIGURES & row.keys()


def test_an_absent_backend_that_was_asked_for_is_refused(plant, monkeypatch):
    op = plant(unsupported="the library is not built")
    monkeypatch.setattr(kernels, "ops", lambda: [op])
    with pytest.raises(UserError, match="backend native on cpu: absent: the library is not built; leave it out"):
        run(backends=("native",))


def test_an_unknown_backend_is_refused():
    with pytest.raises(UserError, match="unknown backend 'cuda'"):
        run(backends=("cuda",))


@pytest.mark.parametrize("name", ["sgd", "weight_perturb"])
def test_what_an_op_writes_is_judged_too(name):
    op = next(op for op in ops() if op.name == name)
    call = kernel_calls.CALLS[name](images_of("digits"), 1, CPU)

    def forgetful(*args, **kwargs):
        before = [tensor.clone() for tensor in call.written]
        result = op.reference(*args, **kwargs)
        for tensor, old in zip((args[0], args[1]) if name == "sgd" else (kwargs["out"],), before, strict=True):
            tensor.copy_(old)
        return result

    for run, verdict in ((op.reference, ""), (forgetful, "wrong: ")):
        backend = dispatch.Backend(name="native", run=run, unsupported=lambda *_: "", unfit=lambda *_, **__: "")
        problem = kernels.problem(backend, call, op)
        assert problem.startswith(verdict)
        assert bool(problem) == bool(verdict)
