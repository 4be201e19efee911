"""A case from plan to rows: only what was verified has figures."""

import statistics
from dataclasses import replace

import pytest
import torch
from bench_case import CASE, CEILING, CPU, PLAN, changed, network, planted

from fastiseat.bench.machine import Clocks
from fastiseat.bench.steps import suite as steps
from fastiseat.bench.steps.subjects import EngineSubject
from fastiseat.bench.steps.suite import run_case
from fastiseat.bench.steps.variants import VARIANTS
from fastiseat.errors import UserError
from fastiseat.kernels import ops
from fastiseat.kernels.core import dispatch

FIGURES = {
    "seconds",
    "host",
    "host_ms",
    "median",
    "spread",
    "peak_bytes",
    "images_per_second",
    "share_of_peak",
    "floor",
}


def rows_of(*variants, methods=("at", "iseat")):
    return run_case(CASE, variants, methods, CEILING, PLAN, Clocks(device=CPU))


@pytest.fixture(scope="module")
def result():
    variants = [
        VARIANTS["fastiseat-eager-full"],
        planted(changed("attack", eps=0.2), name="wrong"),
        VARIANTS["eager"],
    ]
    return rows_of(*variants)


def test_each_variant_and_method_has_a_row_in_order(result):
    found = [(row["variant"], row["method"]) for row in result["rows"]]
    assert found == [(v, m) for v in ("fastiseat-eager-full", "wrong", "eager") for m in ("at", "iseat")]
    assert [row["units"] for row in result["rows"]] == [23, 28, 23, 28, 23, 29]


def test_a_wrong_variant_has_no_figure(result):
    wrong = [row for row in result["rows"] if row["variant"] == "wrong"]
    assert all(row["problem"].startswith("wrong: ") and not FIGURES & row.keys() for row in wrong)
    assert "wrong" not in result["recipe_hours"]


def test_right_variants_have_all_figures(result):
    for row in result["rows"]:
        if row["variant"] != "wrong":
            assert not row["problem"]
            assert row.keys() >= FIGURES
            assert len(row["seconds"]) == len(row["host"]) == PLAN.rounds
            assert row["images_per_second"] == CASE.batch_size / row["median"]
            assert row["floor"] > 0
            assert row["tf32"] is False


def test_a_row_tells_what_ran(result):
    found = {
        row["variant"]: (row["ours"], row["engine"], row["mode"], row["approximate"]) for row in result["rows"]
    }
    assert found["fastiseat-eager-full"] == (True, "eager", "", False)
    assert found["eager"] == (False, "", "", False)
    assert result["bn_act"] == "reference", "its layers are too small for any other"


def test_the_host_s_time_is_told_where_it_is_not_the_device_s(result):
    assert {row.get("host_ms") for row in result["rows"]} == {None}
    (row,) = rows_of(VARIANTS["fastiseat-tape-full"], methods=("at",))["rows"]
    assert row["host_ms"] == statistics.median(row["host"]) * 1000 > 0


def test_modes_are_a_case_of_their_own(result):
    assert result["title"] == CASE.title
    half = VARIANTS["fastiseat-eager-full-half-batch"]
    case = rows_of(VARIANTS["fastiseat-eager-full"], half)
    assert case["title"] == f"{CASE.title}, modes"
    found = [(row["mode"], row["method"], row["units"], row["approximate"]) for row in case["rows"]]
    assert found == [("", "at", 23, False), ("", "iseat", 28, False), ("half-batch", "iseat", 26.5, True)]
    shares = [row["share_of_peak"] * row["median"] for row in case["rows"][1:]]
    assert shares[1] == pytest.approx(shares[0] * 26.5 / 28)


def test_an_engine_that_cannot_run_the_step_has_no_figure(monkeypatch):
    def refuse(self, *args):
        raise UserError("this step cannot be recorded")

    monkeypatch.setattr(EngineSubject, "step", refuse)
    monkeypatch.setattr(steps, "require_fit", lambda *_: None)
    ours, eager = rows_of(VARIANTS["fastiseat-tape-full"], VARIANTS["eager"], methods=("at",))["rows"]
    assert ours["problem"] == "cannot run: this step cannot be recorded"
    assert eager["median"] > 0


def test_whether_a_batch_fits_is_told_by_an_eager_step(monkeypatch):
    asked = []
    monkeypatch.setattr(steps, "require_fit", lambda variant, *_: asked.append(variant.name))
    rows_of(VARIANTS["fastiseat-tape-full"], methods=("at",))
    rows_of(VARIANTS["eager"], methods=("at",))
    assert asked == ["fastiseat-eager-full", "eager"]


def test_memory_counts_the_network_and_what_its_step_holds(result):
    peaks = {(row["variant"], row["method"]): row.get("peak_bytes", 0) for row in result["rows"]}
    parameters = sum(w.numel() * 4 for w in VARIANTS["eager"].build(network(), CASE.config()).model.parameters())
    # θ and momentum at least; ISEAT keeps the clean graph besides; the baseline has a proxy model.
    assert peaks["fastiseat-eager-full", "at"] > 2 * parameters
    assert peaks["fastiseat-eager-full", "iseat"] > peaks["fastiseat-eager-full", "at"]


def test_a_wrong_kernel_leaves_the_library_without_figures(monkeypatch):
    """The step in float64 would not notice: there the reference serves."""
    op = next(op for op in ops() if op.name == "pgd_step")

    def stronger(call):
        return op.reference(replace(call, step_size=1.001 * call.step_size))

    backend = dispatch.Backend(name="native", run=stronger, unsupported=lambda *_: "", unfit=lambda _: "")
    monkeypatch.setattr(op, "backends", (backend,))
    monkeypatch.setattr(op, "_choices", {})
    ours, eager = rows_of(VARIANTS["fastiseat-eager-full"], VARIANTS["eager"], methods=("at",))["rows"]
    assert ours["problem"].startswith("pgd_step by native is wrong: ")
    assert not FIGURES & ours.keys()
    assert eager["median"] > 0


def test_a_variant_that_runs_out_of_memory_has_no_figure():
    variant = replace(VARIANTS["eager"], name="large", build=lambda model, config: Hungry(model))
    _, row = rows_of(VARIANTS["eager"], variant, methods=("at",))["rows"]
    assert row["problem"] == "does not fit into memory beside the others"


class Hungry:
    def __init__(self, model):
        self.model = model

    def start_over(self, state):
        pass

    def step(self, method, x, y):
        raise torch.OutOfMemoryError
