"""The tables of ``bench attack``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastiseat.bench.words import NONE, Row, Table, in_percent, in_seconds, problems, with_figures

NOTE = (
    "Real images; the whole time, recordings of ours included. Alike: images of the same verdict as by pyautoattack, "
    "beside which ours has no figure where they are too few, or where it leaves more robust."
)
PARTS_NOTE = (
    "Seconds, and × pyautoattack in brackets; a dash is a part that nothing was left for. Besides: clean accuracy, and "
    "pyautoattack's checks of the network, which ours counts to its first part."
)


def attack(case: Row) -> Iterator[Table]:
    """Who was how fast, and in which part."""
    if case["problem"]:
        yield Table(
            title=f"{case['title']}: AutoAttack", columns=("variant",), rows=(), without=(case["problem"],)
        )
        return
    there = with_figures(case)
    base = next((row for row in there if not row["ours"]), None)
    yield Table(
        title=f"{case['title']}: AutoAttack",
        columns=("variant", "× pyautoattack", "time", "spread", "TF32", "robust", "alike"),
        rows=tuple(_speed(row, base, case["images"]) for row in there),
        note=NOTE,
        without=problems(case, "variant"),
    )
    yield Table(
        title=f"{case['title']}: AutoAttack by its parts",
        columns=("variant", *case["parts"], "besides"),
        rows=tuple(_parts(row, base, case["parts"]) for row in there),
        note=PARTS_NOTE,
    )


def _speed(row: Row, base: Row | None, images: int) -> tuple[str, ...]:
    return (
        row["variant"],
        f"{base['median'] / row['median']:.2f}×" if base else NONE,
        in_seconds(row["median"]),
        in_percent(row["spread"]) if len(row["seconds"]) > 1 else NONE,
        "on" if row["tf32"] else "off",
        f"{row['robust'] / images:.1%}",
        f"{row['alike']} of {images}" if row["alike"] is not None else NONE,
    )


def _parts(row: Row, base: Row | None, parts: list[str]) -> tuple[str, ...]:
    besides = row["median"] - sum(row["parts"].values())
    return (row["variant"], *(_part(row, base, part) for part in parts), f"{max(besides, 0.0):.2f}")


def _part(row: Row, base: Row | None, part: str) -> str:
    time: Any = row["parts"][part]
    if not time:
        return "-"
    ratio = f" ({base['parts'][part] / time:.2f}×)" if base and base["parts"][part] and row["ours"] else NONE
    return f"{time:.2f}{ratio}"
