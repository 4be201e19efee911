"""Recorded results: written, read, and told in the README exactly as they are."""

import json

import pytest
from bench_case import CASE, CPU, PLAN, changed, planted

from fastiseat.bench import results, suite
from fastiseat.bench.machine import without_paths
from fastiseat.bench.results import README, RESULTS, load, readme, save
from fastiseat.bench.steps.variants import VARIANTS
from fastiseat.bench.suite import PARTS, Selection, measure
from fastiseat.bench.tables import markdown, remarks, tables
from fastiseat.errors import UserError

pytestmark = pytest.mark.xdist_group("document")  # measured once, which takes seconds


@pytest.fixture(scope="module")
def document():
    variants = (
        VARIANTS["fastiseat-eager-full"],
        VARIANTS["eager"],
        planted(changed("attack", eps=0.2), name="wrong"),
    )
    selection = Selection(cases=(CASE,), variants=variants, methods=("at", "iseat"), alone=(12,), images=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite.ceilings, "_SIDES", {"cpu": 64})
        patch.setattr(suite.ceilings, "_COPIED", {"cpu": 2**16})
        return measure(PARTS, selection, PLAN)


def test_the_readme_is_drawn_from_the_results():
    documents = [load(path) for path in sorted(RESULTS.glob("*.json"))]
    text = README.read_text(encoding="utf-8")
    assert readme(text, documents) == text, "run: python -m fastiseat.bench.results"


def test_a_document_survives_its_file(document, tmp_path):
    path = save(document, tmp_path / "new" / "folder")
    assert load(path) == json.loads(json.dumps(document))
    commit = document["machine"]["versions"]["commit"]
    assert commit is None or commit[:10] in path.name


def test_another_format_is_refused(document, tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(document | {"format": 0}))
    with pytest.raises(UserError, match=r"old\.json: written in format 0, this version reads 1"):
        load(path)


def test_a_readme_without_the_mark_is_refused(document):
    with pytest.raises(UserError, match="has no line"):
        readme("# Measurements\n", [document])


def test_drawing_twice_changes_nothing(document):
    once = readme(f"# Title\n\n{results._MARK}", [document])
    assert readme(once, [document]) == once
    assert document["machine"]["device"] in once


def test_ratios_come_before_times(document):
    titles = [table.title for table in tables(document)]
    ratios = next(n for n, title in enumerate(titles) if "time of each baseline over" in title)
    assert ratios < next(n for n, title in enumerate(titles) if "one training step" in title)


def test_each_figure_of_a_step_is_told(document):
    (case,) = document["step"]
    told = markdown(tables(document), level=2)
    for row in case["rows"]:
        if row["problem"]:
            assert f"No figure: wrong, {row['method']}: wrong: " in told
        else:
            assert f"| {row['variant']} | {row['method']} |" in told


def test_a_variant_without_figures_is_in_no_table(document):
    for table in tables(document):
        assert not [row for row in table.rows if row[0] == "wrong"]
    assert any("wrong, iseat" in remark for table in tables(document) for remark in remarks(table))


def test_the_paper_s_overhead_stands_beside_ours(document):
    (table,) = [table for table in tables(document) if "Table 7" in table.title]
    assert table.rows[0] == ("paper, RTX 3080 Ti", "0.253 s", "0.268 s +6%", "0.277 s +9%", "0.298 s +18%")
    (ours,) = [row for row in table.rows if row[0] == "fastiseat-eager-full"]
    at, iseat = (row["median"] for row in document["step"][0]["rows"][:2])
    assert "[28]" in ours[4] and f"{iseat / at - 1:+.0%}" in ours[4]


def test_tables_are_as_wide_as_their_columns(document):
    for table in tables(document):
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_random_and_real_images_are_told_apart(document):
    assert document["data"] == "random images"
    assert document["machine"]["kind"] == CPU.type


def test_a_recorded_command_names_no_folder_of_its_machine():
    words = ["fastiseat", "bench", "all", "--results", "/home/a/r", "--preset", "cpu", "--data-dir=/home/a"]
    assert without_paths(words) == ["fastiseat", "bench", "all", "--preset", "cpu"]
