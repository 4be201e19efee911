"""A document of results as tables of words: the same ones for the terminal, for Markdown and for the README."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastiseat.bench.attack import tables as attack_tables
from fastiseat.bench.steps.targets import judged
from fastiseat.bench.words import (
    NONE,
    Document,
    Row,
    Table,
    in_bytes,
    in_ms,
    in_percent,
    in_seconds,
    problems,
    with_figures,
)

# Table 7 of the paper: CIFAR-10, RTX 3080 Ti, seconds a mini-batch.
PAPER = {"at": 0.253, "lsi": 0.268, "at-awp": 0.277, "iseat": 0.298}
KERNELS_NOTE = (
    "Reference: the op in plain PyTorch; that of bn_act and bn_act_eval is PyTorch's own sum, batch_norm and relu. "
    "torch: PyTorch's own backward pass of these. compile: torch.compile of the reference."
)
_APPROXIMATE_NOTE = "Approximate: ν is not the method's own; no robustness was published for it. "
PARTS_OF_THE_METHOD = {
    "at": "AT",
    "lsi": "+ input loss smoothing",
    "at-awp": "+ weight loss smoothing",
    "iseat": "+ both (ISEAT)",
}


def tables(document: Document) -> list[Table]:
    """All tables of a document, ratios before times."""
    found = [_ceiling(document), *_targets(document)]
    for case in document.get("step", ()):
        found += [*_comparison(case), *_steps(case), _overhead(case), _limits(case)]
    found += [_kernels(case) for case in document.get("kernels", ())]
    found += [_loaders(case) for case in document.get("loaders", ())]
    found += [_epoch(case) for case in document.get("epoch", ())]
    for case in document.get("attack", ()):
        found += attack_tables.attack(case)
    return found


def _ceiling(document: Document) -> Table:
    ceiling = document["ceiling"]
    rates = [(f"matrix product, {name}", f"{rate / 1e12:.3g} TFLOP/s") for name, rate in ceiling["flops"].items()]
    rows = (*rates, ("copy, read and written", f"{ceiling['bandwidth'] / 1e9:.3g} GB/s"))
    return Table(title=f"What {document['machine']['device']} does at best", columns=("", "measured"), rows=rows)


def _targets(document: Document) -> Iterator[Table]:
    rows = tuple((str(t["what"]), str(t["told"]), str(t["target"]), str(t["verdict"])) for t in judged(document))
    if rows:
        yield Table(
            title=f"Targets on {document['machine']['device']}",
            columns=("", "measured", "target", "verdict"),
            rows=rows,
            note="Ours is the fastest exact step of this library. Shares count the 28 units that ISEAT needs.",
        )


def _comparison(case: Row) -> Iterator[Table]:
    """The library's fastest ISEAT step against every baseline."""
    timed = with_figures(case)
    ours = [row for row in timed if row["ours"] and row["method"] == "iseat" and not row.get("approximate")]
    if not ours:
        return
    best = min(ours, key=lambda row: row["median"])
    rows = [
        (row["variant"], row["method"], f"{row['median'] / best['median']:.2f}×")
        for row in timed
        if not row["ours"] and row["method"] in ("at", "iseat")
    ]
    if rows:
        yield Table(
            title=f"{case['title']}: time of each baseline over that of ISEAT by {best['variant']}",
            columns=("baseline", "method", "ratio"),
            rows=tuple(rows),
        )


def _steps(case: Row) -> Iterator[Table]:
    eager = {row["method"]: row["median"] for row in case["rows"] if row["variant"] == "eager" and "median" in row}
    yield Table(
        title=f"{case['title']}: one training step",
        columns=("variant", "method", "× eager", "units", "ms", "spread", "images/s"),
        rows=tuple(_speed(row, eager) for row in with_figures(case)),
        note=_APPROXIMATE_NOTE
        * any(row.get("approximate") for row in case["rows"])
        + "× eager: speed relative to the baseline eager by the same method. Units: forward, input-gradient and "
        "weight-gradient passes. Spread: between the fastest and the slowest round.",
        without=problems(case, "variant", "method"),
    )
    yield Table(
        title=f"{case['title']}: what else a step takes",
        columns=("variant", "method", "host ms", "memory", "TF32", "off", "in float64"),
        rows=tuple(map(_beside, with_figures(case))),
        note="Host: CPU time until a call returns that finds the device idle; of a tape all that it computes, "
        "other engines are left out where the host is the device. Memory: at its peak, the network's own included. "
        "Off: the largest relative deviation from the reference among losses, vulnerabilities, running statistics and "
        "the update's size, which rounding leaves alone. In float64: of the update itself, on a few images.",
    )


def _speed(row: Row, eager: dict[str, float]) -> tuple[str, ...]:
    seconds = row["median"]
    return (
        _name(row),
        row["method"],
        f"{eager[row['method']] / seconds:.2f}×" if row["method"] in eager else NONE,
        f"{row['units']:g}",
        in_ms(seconds),
        in_percent(row["spread"]),
        f"{row['images_per_second']:,.0f}",
    )


def _name(row: Row) -> str:
    return f"{row['variant']} (approximate)" if row.get("approximate") else str(row["variant"])


def _beside(row: Row) -> tuple[str, ...]:
    deviations = dict(row["deviations"])
    exact = deviations.pop("exact", None)
    host = row.get("host_ms")
    return (
        _name(row),
        row["method"],
        NONE if host is None else in_ms(host / 1000),
        in_bytes(row["peak_bytes"]),
        "on" if row["tf32"] else "off",
        f"{max(deviations.values()):.1g}",
        NONE if exact is None else f"{exact:.1g}",
    )


def _overhead(case: Row) -> Table:
    """The paper's Table 7, row by row."""
    variants = list(dict.fromkeys(row["variant"] for row in case["rows"]))
    rows = [("paper, RTX 3080 Ti", *(_part(PAPER[m], PAPER["at"], None) for m in PAPER))]
    for variant in variants:
        found = {row["method"]: row for row in case["rows"] if row["variant"] == variant and not row["problem"]}
        if "at" in found:
            base = found["at"]["median"]
            rows.append((variant, *(_part_of(found.get(method), base) for method in PAPER)))
    return Table(
        title=f"{case['title']}: what each part of the method costs (the paper's Table 7)",
        columns=("", *PARTS_OF_THE_METHOD.values()),
        rows=tuple(rows),
        note="An attack that also computes weight gradients makes AT dearer, and what comes on top look cheaper: "
        "compare the times, and the units in brackets.",
    )


def _part_of(row: Row | None, base: float) -> str:
    return _part(row["median"], base, row["units"]) if row else NONE


def _part(seconds: float, base: float, units: float | None) -> str:
    more = f" {seconds / base - 1:+.0%}" if seconds != base else NONE
    return f"{in_seconds(seconds)}{f' [{units:g}]' if units else NONE}{more}"


def _limits(case: Row) -> Table:
    return Table(
        title=f"{case['title']}: how far from the device's limit",
        columns=("variant", "method", "floor ms", "above it", "of peak", "the recipe"),
        rows=tuple(_limit(row, case["recipe_hours"]) for row in with_figures(case)),
        note="Floor: products at the measured matrix rate, then BatchNorm's tensors at the measured bandwidth. Of "
        "peak: the products that the method needs, as a share of that rate. The recipe: hours of the data set's own "
        "for ISEAT, with this network and batch, and with validation by PGD-10 after each epoch.",
    )


def _limit(row: Row, hours: dict[str, float]) -> tuple[str, ...]:
    return (
        _name(row),
        row["method"],
        in_ms(row["floor"]),
        f"{row['median'] / row['floor']:.1f}×",
        in_percent(row["share_of_peak"]),
        f"{hours[row['variant']]:,.2f} h" if row["method"] == "iseat" else NONE,
    )


def _kernels(case: Row) -> Table:
    reference = {row["op"]: row["median"] for row in case["rows"] if row["backend"] == "reference"}
    return Table(
        title=f"{case['title']}: kernels",
        columns=("op", "backend", "× reference", "ms", "spread", "of copy bandwidth"),
        rows=tuple(
            (
                row["op"],
                row["backend"],
                f"{reference[row['op']] / row['median']:.2f}×",
                in_ms(row["median"]),
                in_percent(row["spread"]),
                in_percent(row["share_of_bandwidth"]),
            )
            for row in with_figures(case)
        ),
        note=KERNELS_NOTE,
        without=problems(case, "op", "backend"),
    )


def _loaders(case: Row) -> Table:
    timed = with_figures(case)
    return Table(
        title=f"{case['title']}: loaders alone",
        columns=("loader", f"× {timed[0]['loader']}", "images/s", "spread"),
        rows=tuple(
            (
                row["loader"],
                f"{timed[0]['median'] / row['median']:.2f}×",
                f"{row['images_per_second']:,.0f}",
                in_percent(row["spread"]),
            )
            for row in timed
        ),
        without=problems(case, "loader"),
    )


def _epoch(case: Row) -> Table:
    return Table(
        title=f"{case['title']}: training from a loader, {case['method']} by {case['variant']}",
        columns=("data", "above the first", "ms a step", "spread"),
        rows=tuple(
            (row["loader"], f"{row['overhead']:+.1%}", in_ms(row["median"]), in_percent(row["spread"]))
            for row in with_figures(case)
        ),
        without=problems(case, "loader"),
    )


def markdown(found: Sequence[Table], *, level: int) -> str:
    """The tables as Markdown, their titles as headings."""
    return "\n\n".join(_markdown(table, level) for table in found) + "\n"


def _markdown(table: Table, level: int) -> str:
    lines = [f"{'#' * level} {table.title}", NONE]
    lines += map(_line, (table.columns, ["---"] * len(table.columns), *table.rows))
    for remark in remarks(table):
        lines += [NONE, remark]
    return "\n".join(lines)


def remarks(table: Table) -> list[str]:
    """What belongs below a table: what it leaves out, and how to read it."""
    return [*(f"No figure: {problem}" for problem in table.without), *([table.note] if table.note else [])]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
