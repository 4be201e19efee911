"""What tables of results are made of: a table of words, and figures as words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]
Row = dict[str, Any]
NONE = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Words in rows and columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    without: tuple[str, ...] = ()
    """What has no figure, and why."""


def with_figures(case: Row) -> list[Row]:
    """The rows that have figures."""
    return [row for row in case["rows"] if not row["problem"]]


def problems(case: Row, *names: str) -> tuple[str, ...]:
    """Why the others have none, told by their names in these fields."""
    return tuple(
        f"{', '.join(row[name] for name in names)}: {row['problem']}" for row in case["rows"] if row["problem"]
    )


def in_ms(seconds: float) -> str:
    """Milliseconds, without their unit."""
    return f"{seconds * 1000:,.3g}" if seconds < 1 else f"{seconds * 1000:,.0f}"


def in_seconds(seconds: float) -> str:
    """With its unit."""
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{in_ms(seconds)} ms"


def in_percent(value: float) -> str:
    """Of a share."""
    return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"


def in_bytes(value: int) -> str:
    """In MiB or GiB."""
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:,.0f} MiB"
