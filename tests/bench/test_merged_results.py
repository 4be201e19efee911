"""Results of several calls on one machine and commit are one document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastiseat.bench.results import load, merged, save

MACHINE = {
    "device": "A Card",
    "driver": "580.1",
    "argv": ["one"],
    "versions": {"commit": "c" * 40, "fastiseat": "1"},
}


def document(**changed: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "date": "2026-01-01",
        "machine": MACHINE,
        "rounds": 5,
        "data": "random images",
        "ceiling": {"flops": {"full": 1.0}, "bandwidth": 2.0},
        "clocks": None,
    } | changed


def case(title: str, rows: int = 1) -> dict[str, Any]:
    return {"title": title, "rows": list(range(rows))}


def test_cases_come_together_in_the_order_of_their_measurement(tmp_path: Path) -> None:
    later = MACHINE | {"argv": ["two"]}
    save(document(step=[case("a"), case("b")]), tmp_path)
    save(document(step=[case("c")], kernels=[case("a")], machine=later, date="2026-01-02"), tmp_path)
    path = save(document(step=[case("a", rows=3)]), tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    found = load(path)
    assert found["step"] == [case("a", rows=3), case("b"), case("c")]
    assert found["kernels"] == [case("a")]
    assert "loaders" not in found
    assert json.loads(path.read_text()) == found


def test_rates_and_clocks_are_those_of_all_calls() -> None:
    half = {"flops": {"bf16": 9.0, "full": 1.5}, "bandwidth": 2.5}
    one = document(clocks={"min": 900, "max": 1900})
    both = merged(one, document(ceiling=half, clocks={"min": 1000, "max": 1980}))
    assert both["ceiling"] == half
    assert both["clocks"] == {"min": 900, "max": 1980}
    assert merged(document(ceiling=half), one)["ceiling"]["flops"] == {"bf16": 9.0, "full": 1.0}
    assert merged(one, document())["clocks"] == one["clocks"]
    assert merged(document(), document())["clocks"] is None


@pytest.mark.parametrize(
    "change",
    [{"rounds": 1}, {"data": "real images"}, {"machine": MACHINE | {"driver": "590.0"}}],
    ids=lambda change: next(iter(change)),
)
def test_what_was_measured_otherwise_is_replaced(change: dict[str, Any]) -> None:
    later = document(step=[case("b")], **change)
    assert merged(document(step=[case("a")]), later) == later
