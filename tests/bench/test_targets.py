"""Targets are judged by the rows of one case, and what a document lacks is told."""

from __future__ import annotations

from typing import Any

import pytest

from fastiseat.bench.figures import PRN18, PRN18_64, WRN
from fastiseat.bench.presets import PRESETS
from fastiseat.bench.results import merged
from fastiseat.bench.steps.modes import MODES
from fastiseat.bench.steps.targets import judged
from fastiseat.bench.steps.variants import VARIANTS
from fastiseat.bench.tables import tables

MILLISECONDS = {
    "eager-strict": 60, "eager": 40, "eager-bf16": 30, "compile-naive": 10, "compile-careful": 12,
    "fastiseat-graph-bf16": 10, "fastiseat-eager-bf16": 20,
}  # fmt: skip


def row(variant: str, method: str, ms: float, **more: Any) -> dict[str, Any]:
    found = VARIANTS[variant]
    told = {"variant": variant, "ours": found.ours, "engine": found.engine, "mode": found.mode.name}
    told |= {"method": method, "precision": found.precision, "problem": "", "median": ms / 1000}
    return told | {"peak_bytes": {"at": 100, "iseat": 200}[method], "host_ms": 0.2, "share_of_peak": 0.35} | more


def case(where=PRN18, rows=(), title="a case", **more: Any) -> dict[str, Any]:
    arch, dataset, batch_size = where
    told = {"arch": arch, "dataset": dataset, "batch_size": batch_size, "title": title, "rows": list(rows)}
    return told | {"recipe_hours": {found["variant"]: 0.35 for found in rows}} | more


def both(variant: str, ms: float, at: float = 0.8, **more: Any) -> list[dict[str, Any]]:
    return [row(variant, "at", at * ms, **more), row(variant, "iseat", ms, **more)]


PLAIN = [found for variant, ms in MILLISECONDS.items() for found in both(variant, ms)]


def document(
    *cases: dict[str, Any], kind: str = "cuda", device: str = "NVIDIA H200", **more: Any
) -> dict[str, Any]:
    return {"machine": {"kind": kind, "device": device}, "step": list(cases)} | more


def verdicts(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {str(target["what"]): (str(target["told"]), str(target["verdict"])) for target in judged(found)}


def one(found: dict[str, Any], words: str) -> tuple[str, str]:
    (verdict,) = [verdict for what, verdict in verdicts(found).items() if words in what]
    return verdict


@pytest.mark.parametrize(
    ("words", "told", "verdict"),
    [
        ("strict float32", "6×", "met"),
        ("PyTorch's defaults", "4×", "met"),
        ("against eager, AMP", "3×", "met"),
        ("naive", "1×", "missed"),
        ("careful", "1.2×", "met"),
        ("over plain AT", "0.42×", "met"),
        ("ISEAT over AT, PRN18", "+25%", "missed"),
        ("rate, ISEAT, PRN18 at 32×32", "35%", "met"),
        ("CUDA graph", "0.2 ms", "met"),
        ("200 epochs", "21 min", "met"),
        ("graph kept", "2×", "met"),
    ],
)
def test_a_figure_is_judged(words: str, told: str, verdict: str) -> None:
    assert one(document(case(rows=PLAIN)), words) == (told, verdict)


def test_a_stretch_that_is_met_is_told() -> None:
    rows = [found | {"share_of_peak": 0.4} for found in PLAIN]
    assert one(document(case(rows=rows)), "rate, ISEAT, PRN18 at 32×32") == ("40%", "met, stretch too")


@pytest.mark.parametrize(("words", "where"), [("rate, ISEAT, PRN18 at 64×64", PRN18_64), ("over AT, WRN", WRN)])
def test_other_cases_have_targets_of_their_own(words: str, where: tuple[str, str, int]) -> None:
    assert one(document(case(rows=PLAIN)), words)[1].startswith("not measured here: no such step in this run: ")
    assert "missed" in one(document(case(rows=PLAIN), case(where, PLAIN)), words)[1]


def test_modes_are_judged_by_their_own_case() -> None:
    rows = [*both("fastiseat-graph-bf16", 10, peak_bytes=100)]
    for name in list(MODES)[1:]:
        variant = f"fastiseat-graph-bf16-{name}"
        rows += [
            found for found in both(variant, 11, peak_bytes=100) if found["method"] in VARIANTS[variant].units
        ]
    found = document(case(rows=PLAIN), case(rows=rows, title="a case, modes"))
    assert one(found, "graph recomputed") == ("1×", "met")
    assert one(found, "its time over ours") == ("1.1×", "reported")
    assert one(found, "both with an attack that computes") == ("+25%", "reported")
    assert one(found, "(half-batch), over AT") == ("+37.5%", "reported")


def test_approximate_steps_are_nobody_s_best() -> None:
    rows = [*PLAIN, row("fastiseat-graph-bf16-previous-step", "iseat", 1)]
    assert one(document(case(rows=rows)), "PyTorch's defaults") == ("4×", "met")


def test_the_data_s_share_is_that_of_the_dearest_loader() -> None:
    rows = [{"overhead": value, "problem": ""} for value in (0, 0.01, 0.03)]
    assert one(document(case(), epoch=[{"rows": rows}]), "epoch's data") == ("+3%", "missed")
    assert one(document(case(), epoch=[{"rows": rows[:2]}]), "epoch's data") == ("+1%", "met")
    assert one(document(case()), "epoch's data") == ("", "not measured here: bench epoch tells")


@pytest.mark.parametrize(
    ("words", "rows", "why"),
    [
        ("PyTorch's defaults", both("fastiseat-graph-bf16", 10), "eager, iseat: not in this run"),
        ("PyTorch's defaults", both("eager", 10), "no ISEAT step of ours in this run"),
        ("CUDA graph", both("fastiseat-eager-bf16", 10), "no CUDA graph in this run"),
        ("CUDA graph", both("fastiseat-graph-bf16", 10, problem="wrong: loss"), "wrong: loss"),
        ("rate, ISEAT, PRN18 at 32×32", both("fastiseat-graph-full", 10), "no ISEAT step of ours in half"),
        ("graph recomputed", PLAIN, "fastiseat-graph-bf16-recompute, iseat: not in this run"),
    ],
)
def test_what_is_absent_is_told(words: str, rows: list[dict[str, Any]], why: str) -> None:
    told, verdict = one(document(case(rows=rows)), words)
    assert told == ""
    assert verdict.startswith(f"not measured here: {why}")


def test_a_cpu_is_judged_by_the_cpu_s_targets_alone() -> None:
    rows = [*both("eager", 12), *both("fastiseat-eager-full", 10)]
    found = verdicts(document(case(rows=rows, bn_act="native"), kind="cpu", device="A CPU"))
    about = {what: verdict for what, verdict in found.items() if "engine eager" in what}
    assert set(about.values()) == {("1.2×", "met")} and len(about) == 2
    others = {verdict for what, (_, verdict) in found.items() if what not in about and "data" not in what}
    assert others == {"not measured here: needs a CUDA device"}


def test_without_the_native_op_its_gain_is_no_target() -> None:
    rows = [*both("eager", 11), *both("fastiseat-eager-full", 10)]
    found = document(case(rows=rows, bn_act="reference"), kind="cpu", device="A CPU")
    assert one(found, "with native bn_act") == ("", "not measured here: native bn_act does not serve here")


def test_a_cpu_s_bf16_step_is_held_to_bf16() -> None:
    rows = [*both("eager-bf16", 12), *both("fastiseat-eager-bf16", 10)]
    found = document(case(rows=rows), kind="cpu", device="A CPU")
    (first, native) = [verdict for what, verdict in verdicts(found).items() if "engine eager" in what]
    assert first == ("1.2×", "met")
    assert native[1] == "not measured here: this run does not tell what served bn_act"


def test_the_recipe_s_time_is_an_h200_s() -> None:
    assert (
        one(document(case(rows=PLAIN), device="Tesla V100"), "200 epochs")[1] == "not measured here: needs an H200"
    )


def test_cards_without_bf16_are_judged_by_fp16() -> None:
    names = {"eager-fp16": 30, "fastiseat-graph-fp16": 10, "compile-naive-fp16": 14}
    found = document(case(rows=[found for name, ms in names.items() for found in both(name, ms)]))
    assert one(found, "against eager, AMP") == ("3×", "met")
    assert one(found, "naive") == ("1.4×", "met")


def test_a_document_without_steps_has_no_targets() -> None:
    assert judged({"machine": {"kind": "cpu"}, "kernels": []}) == []


def test_every_preset_for_cards_has_rows_for_the_first_targets() -> None:
    for preset in PRESETS.values():
        if "graph" in preset.engines:
            assert preset.cases[0] == PRN18
            names = [*preset.baselines, *(f"fastiseat-graph-{p}" for p in preset.precisions)]
            found = document(case(rows=[found for name in names for found in both(name, 10)]))
            assert not [
                what
                for what, verdict in verdicts(found).items()
                if "PRN18 at 32×32: speed" in what and "not" in verdict[1]
            ]


def test_merged_documents_are_judged_anew() -> None:
    ceiling = {"flops": {}, "bandwidth": 1.0}
    common = {"format": 1, "rounds": 5, "data": "random images", "ceiling": ceiling, "clocks": None}
    whole = document(case(rows=PLAIN), **common)
    kernels = {key: value for key, value in whole.items() if key != "step"} | {"kernels": [], "targets": []}
    assert merged(whole, kernels)["targets"] == judged(whole) != []


def test_targets_are_a_table() -> None:
    found = document(case(), ceiling={"flops": {}, "bandwidth": 1.0})
    del found["step"][0]["rows"]
    found["step"] = []
    (table,) = [table for table in tables(found) if table.title == "Targets on NVIDIA H200"]
    assert {len(line) for line in table.rows} == {len(table.columns)} == {4}
