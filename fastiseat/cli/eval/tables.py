"""The tables of ``fastiseat eval``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from fastiseat.cli.console.tables import titled_table
from fastiseat.cli.console.terminal import Terminal, print_line
from fastiseat.cli.eval.result import Evaluation
from fastiseat.cli.eval.together import comparison, means
from fastiseat.names.balls import ball_words
from fastiseat.report.marks import data_mark

_COLUMNS = ("attack", "ε", "norm", "step size", "restarts", "correct", "accuracy")


def print_all(found: Sequence[Evaluation], *, compare: bool, console: Console | None = None) -> None:
    """Each evaluation, then what they are together."""
    console = console or Terminal()
    for evaluation in found:
        _print_one(evaluation.as_json(), console)
    if compare:
        console.print(_comparison(comparison(*found)))
    elif len(found) > 1:
        columns, refused = means(found)
        if columns:
            console.print(_means(columns))
        for line in refused:
            print_line(console, line)


def _print_one(result: Mapping[str, Any], console: Console) -> None:
    console.print(_attacks(result))
    for row in result["attacks"]:
        if "parts" in row:
            console.print(_parts(row))
        for note in row.get("notes", ()):
            print_line(console, f"{row['attack']}: {note}")
    if result["sanity"]:
        console.print(_sanity(result["sanity"]))
        for check in result["sanity"]:
            if check["suspicious"]:
                print_line(console, f"warning: {check['name']}: {check['finding']}")
    folders = {row["saved"].rpartition("/")[0] or "." for row in result["attacks"]}
    print_line(console, f"verdicts: {', '.join(sorted(folders))}")


def _table(title: str, columns: Sequence[str]) -> Table:
    """The first column holds words, the others numbers."""
    table = titled_table(title)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=not number)
    return table


def _attacks(result: Mapping[str, Any]) -> Table:
    few = "" if result["subset"] is None else f", {result['subset']} images"
    table = _table(
        f"{result['network']}\n{result['weights']} on {result['dataset']}, {result['split']}{few}"
        f"{data_mark(result['official'], verified=result['verified'])}",
        _COLUMNS,
    )
    for row in result["attacks"]:
        correct = f"{row['correct']}/{row['total']}"
        table.add_row(_name(row), *_parameters(row), correct, _percent(row["accuracy"]))
    return table


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['attack']} (official)" if row["backend"] == "official" else str(row["attack"])


def _parameters(row: Mapping[str, Any]) -> list[str]:
    """How many steps there are is told by the attack's name."""
    if row["steps"] == 0:
        return ["-"] * 4
    of_pgd = ["-"] * 2
    if row["steps"]:
        of_pgd = [f"{row['step_size']:.4g}", str(row["restarts"])]
    return [f"{row['eps']:.4g}", ball_words(row["norm"]).sign, *of_pgd]


def _parts(row: Mapping[str, Any]) -> Table:
    table = _table(f"{_name(row)}, part by part", ("after", "robust", "accuracy"))
    for part in row["parts"]:
        share = _percent(part["robust"] / row["total"])
        table.add_row(part["part"], f"{part['robust']}/{row['total']}", share)
    return table


def _sanity(checks: Sequence[Mapping[str, Any]]) -> Table:
    table = titled_table("can these attacks be believed?")
    for name in ("check", "finding", ""):
        table.add_column(name)
    for check in checks:
        table.add_row(check["name"], check["finding"], "suspicious" if check["suspicious"] else "")
    return table


def _means(columns: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("mean ± sample SD (n - 1) over the targets", ("attack", "weights", "targets", "accuracy"))
    for column in columns:
        accuracy = f"{100 * column['mean']:.2f} ± {100 * column['sd']:.2f}%"
        table.add_row(_name(column), column["group"] or "-", str(column["targets"]), accuracy)
    return table


def _comparison(result: Mapping[str, Any]) -> Table:
    names = ("attack", "agreement", "both robust", "only first", "only second", "neither", "that differ, first 20")
    table = _table(f"first: {result['first']}\nsecond: {result['second']}", names)
    for row in result["attacks"]:
        counts = [str(row[name]) for name in ("both", "only_first", "only_second", "neither")]
        differing = " ".join(map(str, row["differing"])) or "-"
        table.add_row(row["attack"], _percent(row["agreement"]), *counts, differing)
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"
