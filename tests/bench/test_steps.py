"""A case from plan to rows: only what was verified has figures."""

from dataclasses import replace

import pytest
import torch
from bench_case import CASE, CEILING, CPU, PLAN, changed, network, planted

from fastiseat.bench.machine import Clocks
from fastiseat.bench.steps import run_case
from fastiseat.bench.variants import VARIANTS
from fastiseat.kernels import dispatch, ops

FIGURES = {"seconds", "host", "median", "spread", "peak_bytes", "images_per_second", "share_of_peak", "floor"}


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


def test_memory_counts_the_network_and_what_its_step_holds(result):
    peaks = {(row["variant"], row["method"]): row.get("peak_bytes", 0) for row in result["rows"]}
    parameters = sum(w.numel() * 4 for w in VARIANTS["eager"].build(network(), CASE.config()).model.parameters())
    # θ and momentum at least; ISEAT keeps the clean graph besides; the baseline has a proxy model.
    assert peaks["fastiseat-eager-full", "at"] > 2 * parameters
    assert peaks["fastiseat-eager-full", "iseat"] > peaks["fastiseat-eager-full", "at"]


def test_a_wrong_kernel_leaves_the_library_without_figures(monkeypatch):
    """The step in float64 would not notice: there the reference serves."""
    op = next(op for op in ops() if op.name == "pgd_step")

    def stronger(images, delta, grad, *, step_size, **more):
        return op.reference(images, delta, grad, step_size=1.001 * step_size, **more)

    backend = dispatch.Backend(name="native", run=stronger, unsupported=lambda *_: "", unfit=lambda *_, **__: "")
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
