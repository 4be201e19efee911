"""Every op has its call, and a wrong or absent backend has no figure."""

import copy
import os
from dataclasses import replace

import pytest
import torch
from bench_case import CPU

from fastiseat import models
from fastiseat.bench.inputs import images_of
from fastiseat.bench.kernels import bn_act_calls
from fastiseat.bench.kernels import calls as kernel_calls
from fastiseat.bench.kernels import suite as kernels
from fastiseat.errors import UserError
from fastiseat.kernels import ops
from fastiseat.kernels.core import dispatch
from fastiseat.kernels.core.dispatch import AUTO, VARIABLE

FIGURES = {"median", "seconds", "share_of_bandwidth"}


@pytest.fixture(autouse=True)
def few_channels(monkeypatch):
    """Triton's interpreter is slow, where it takes part."""
    monkeypatch.setattr(bn_act_calls, "_STAGES", ((2, 1), (3, 2)))


def run(dataset="cifar10", **settings):
    return kernels.run(images_of(dataset), 6, CPU, bandwidth=1e10, rounds=2, seconds=1e-4, **settings)


def test_every_op_is_measured():
    rows = run()
    assert {row["op"].partition("@")[0] for row in rows} == {op.name for op in ops()}
    assert all(row.keys() >= FIGURES for row in rows if not row["problem"])
    references = [row["op"] for row in rows if row["backend"] == "reference"]
    assert len(references) == len(set(references)) == len(ops())


def test_an_op_without_use_for_the_images_is_left_out():
    assert {row["op"] for row in run()} - {row["op"].replace("8x8", "32x32") for row in run("digits")} == {"idbh"}


@pytest.mark.parametrize(("device", "number"), [("cpu", 1), ("cuda", 4)])
def test_a_network_s_stages_are_rows_of_their_own(monkeypatch, device, number):
    monkeypatch.undo()
    shapes = [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    assert bn_act_calls.stages(images_of("cifar10"), torch.device(device)) == shapes[:number]


def test_a_stage_s_shape_is_in_its_name():
    ((label, call),) = kernel_calls.calls("bn_act", images_of("cifar10"), 3, CPU)
    assert label == "bn_act@2x32x32"
    assert call.arguments.a.shape == (3, 2, 32, 32)


@pytest.mark.parametrize("op", ["bn_act_backward", "bn_act_eval_backward"])
def test_pytorch_s_own_backward_pass_is_a_rival_and_judged(monkeypatch, op):
    rows = run(backends=("torch",))
    assert next(row for row in rows if row["op"].startswith(f"{op}@") and row["backend"] == "torch")["median"]
    honest = bn_act_calls._autograd
    monkeypatch.setattr(bn_act_calls, "_autograd", lambda forward, dy, *more: honest(forward, -dy, *more))
    rows = run(backends=("torch",))
    row = next(row for row in rows if row["op"].startswith(f"{op}@") and row["backend"] == "torch")
    assert row["problem"].startswith("wrong: ")


@pytest.fixture
def plant(monkeypatch):
    op = next(op for op in ops() if op.name == "pgd_step")

    def put(run=op.reference, unsupported="", unfit=""):
        backend = dispatch.Backend(
            name="native", run=run, unsupported=lambda *_: unsupported, unfit=lambda _: unfit
        )
        monkeypatch.setattr(op, "backends", (backend,))
        return op

    return put


def row_of(rows, backend):
    return next(row for row in rows if (row["op"], row["backend"]) == ("pgd_step", backend))


def test_a_wrong_kernel_has_no_figure(plant):
    op = plant(run=lambda call: op.reference(replace(call, grad=-call.grad)))
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


def test_a_kernel_that_fails_has_none(plant):
    def fail(call):
        raise RuntimeError("no such\n  instruction")

    plant(run=fail)
    row = row_of(run(), "native")
    assert row["problem"] == "absent: it failed (no such instruction)"
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

    def forgetful(given):
        before = [tensor.clone() for tensor in call.written]
        result = op.reference(given)
        written = (given.weights, given.momentum_buffer) if name == "sgd" else (given.out,)
        for tensor, old in zip(written, before, strict=True):
            tensor.copy_(old)
        return result

    for run, verdict in ((op.reference, ""), (forgetful, "wrong: ")):
        backend = dispatch.Backend(name="native", run=run, unsupported=lambda *_: "", unfit=lambda _: "")
        problem = kernels.problem(backend, call, op)
        assert problem.startswith(verdict)
        assert bool(problem) == bool(verdict)


@pytest.mark.parametrize(("batch_size", "large"), [(2, False), (64, True)])
def test_bn_act_is_told_as_it_is_served(batch_size, large):
    op = next(op for op in ops() if op.name == "bn_act")
    chosen, _ = op.explain(CPU, torch.float32, os.environ.get(VARIABLE) or AUTO)
    network = models.build("small", in_channels=3, num_classes=10)
    before = copy.deepcopy(network.state_dict())
    found = kernels.which_bn_act(network, torch.rand(batch_size, 3, 32, 32))
    assert found == (chosen if large else "reference")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
