"""Published numbers: the tables' rows against the commands that train them, the docs against the tables, both against
the paper's text where there is one.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import pytest
from published import ELSEWHERE, ROWS, PublishedRow, Setting

from fastiseat.bench.tables import PAPER
from fastiseat.cli.train.command import parse
from fastiseat.config import Config
from fastiseat.recipes import METHODS, recipe_of

ROOT = Path(__file__).parents[1]
METHODS_PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
OFFERED, NOT_OFFERED = METHODS_PAGE.split("## Not offered")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = sorted(path for folder in ("fastiseat", "kernels", "bench") for path in (ROOT / folder).rglob("*.py"))
TRAINED = [row for row in ROWS if row.command is not None]
ACCURACY = re.compile(r"\b\d\d\.\d\d\b")


def numbers_of(table: int) -> set[str]:
    return {number for row in ROWS if row.table == table for number in row.numbers}


@cache
def trained(row: PublishedRow) -> Config:
    return parse((row.command or "").split()).config


@pytest.mark.parametrize("row", TRAINED, ids=lambda row: f"{row.table}-{row.label or row.numbers[0]}")
def test_a_row_is_trained_with_its_numbers_by_its_command(row: PublishedRow) -> None:
    config, command = trained(row), row.command or ""
    found = Setting(
        config.network.arch,
        config.schedule.epochs,
        config.objective.lam,
        config.awp.gamma,
        config.optimizer.lr,
    )
    assert found == row.setting
    theirs = {"consistency": "consistency-stride-2"}.get(config.objective.method, "common")
    ours = config.objective.method in ("at", "at-awp", "lsi", "iseat")
    assert config.network.variant == ("released" if ours else theirs)
    assert (config.data.batch_size, config.data.extra_ratio) == (128, 0.5)
    assert (config.data.extra is None) == ("--extra" not in command)
    # What the paper sets is the recipe's: flags say which row it is, or what its table varies.
    varied = any(flag in command for flag in ("--lam", "--awp-gamma", "--fine-tune"))
    assert varied or config == recipe_of(config)


def test_what_the_tables_name_is_offered_or_listed_as_not() -> None:
    for row in ROWS:
        if row.command is None:
            # Of ISEAT (ours)+SWA, RST+GAIRAT or SRC+FL, at least one part is what is lacking.
            parts = set(re.split(r"[+-](?=SWA)|\+", row.label.replace(" (ours)", "")))
            lacking = [part for part in parts if re.search(rf"(?<![\w-]){part}(?![\w-])", NOT_OFFERED)]
            assert lacking, f"Table {row.table}: {row.label}"


def test_what_is_not_offered_is_no_method() -> None:
    listed = re.findall(r"^\| ([A-Z][^|]+?) \|", NOT_OFFERED, re.MULTILINE)
    names = {name for entry in listed for name in re.findall(r"[a-z+-]+", entry.lower())}
    assert {"infoat", "gairat", "las-awp", "part", "rst+rwp", "swa"} <= names
    assert not names & METHODS.keys()


def sentences(text: str) -> list[str]:
    """A row of a table, or what ends with a full stop; in one line."""
    lines = [line if line.startswith("|") else line.strip() for line in text.splitlines()]
    whole = "\n".join(lines)
    pieces = re.split(r"\n(?=\|)|(?<=\|)\n|\n\n|\.\s", whole)
    return [" ".join(piece.split()) for piece in pieces]


def accuracies_said_of_tables() -> list[tuple[str, set[int], list[str]]]:
    """Where, which tables, and which accuracies, of all sentences that have both."""
    found = []
    for path in (*PAGES, *SOURCES):
        for sentence in sentences(path.read_text(encoding="utf-8")):
            tables = {int(n) for n in re.findall(r"(?<!\w)Tables? (\d)(?!\d)", sentence)}
            if tables and (numbers := ACCURACY.findall(sentence)):
                found.append((f"{path.relative_to(ROOT)}: {sentence}", tables, numbers))
    return found


def test_accuracies_that_are_said_of_a_table_are_in_it() -> None:
    said = accuracies_said_of_tables()
    assert len(said) >= 12
    for where, tables, numbers in said:
        published = set().union(*(numbers_of(table) for table in tables))
        # A row of methods.md has what other papers publish beside it.
        method = (re.search(r"\| `([a-z-]+)` \|", where) or [None, ""])[1]
        published |= set(ELSEWHERE.get(method or "", "").split())
        assert set(numbers) <= published, where


def test_accuracies_in_the_docstrings_of_methods_and_recipes_are_published() -> None:
    published = {number for row in ROWS for number in row.numbers}
    published |= {number for numbers in ELSEWHERE.values() for number in numbers.split()}
    found = [
        (path.name, number)
        for path in SOURCES
        if path.parent.name in ("methods", "recipes")
        for number in re.findall(r"(\d\d\.\d\d)%", path.read_text(encoding="utf-8"))
    ]
    assert len(found) >= 20
    assert [(name, number) for name, number in found if number not in published] == []


def method_rows() -> dict[str, str]:
    """By method, what the table of methods gives as published."""
    rows = re.findall(r"^\| `([a-z-]+)` \|.*\|([^|]*)\|$", OFFERED.split("## What they attack")[0], re.MULTILINE)
    return dict(rows)


def test_each_methods_published_numbers_are_of_a_row_that_it_trains() -> None:
    rows = method_rows()
    assert rows.keys() == METHODS.keys()
    for method, said in rows.items():
        theirs = {
            number
            for row in TRAINED
            if trained(row).objective.method == method and f"Table {row.table}" in said
            for number in row.numbers
        }
        found = set(ACCURACY.findall(said))
        assert found <= theirs | set(ELSEWHERE.get(method, "").split()), method
        assert found or method == "none"


def test_the_benchs_seconds_are_table_7s() -> None:
    assert [float(row.numbers[2]) for row in ROWS if row.table == 7] == list(PAPER.values())


NUMBER = re.compile(r"([−-]?\d+\.\d+)(?: (?:±|\\pm) \d+\.\d+)?(?: \(\+\d+%\))?")
# Cells that speak of several rows, or of none.
SPANNING = {"WRN34-10", "PRN18", "80M-TI", "AA", "PGD20", "–", "—", ""}


def rows_of_the_paper(text: str) -> list[tuple[int, str, tuple[str, ...]]]:
    """(table, label, means) of each row that has numbers."""
    found, table = [], 0
    for line in text.splitlines():
        if heading := re.fullmatch(r"Table (\d)", line.strip()):
            table = int(heading[1])
        cells = [cell.strip() for cell in line.split("\t")]
        numbers = tuple(match[1].replace("−", "-") for cell in cells if (match := NUMBER.fullmatch(cell)))
        if table and numbers:
            names = [re.sub(r" \[\d+\]$", "", cell) for cell in cells if not NUMBER.fullmatch(cell)]
            label = " ".join(name for name in names if name not in SPANNING and "$" not in name)
            found.append((table, label, numbers))
    return found


@pytest.mark.skipif("FASTISEAT_PAPER" not in os.environ, reason="FASTISEAT_PAPER names the paper's text")
def test_the_tables_are_the_papers() -> None:
    text = Path(os.environ["FASTISEAT_PAPER"]).read_text(encoding="utf-8")
    assert rows_of_the_paper(text) == [(row.table, row.label, row.numbers) for row in ROWS]
