"""Each data set of the table is prepared, read, verified, listed and has a recipe, whoever added it."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout, suppress
from pathlib import Path

import numpy as np
import pytest
import source_kinds

from fastiseat.__main__ import main
from fastiseat.names.data import DATA, named_sets, own_kinds, written
from fastiseat.pipelines.data import datasets
from fastiseat.pipelines.data.freshness import examine
from fastiseat.pipelines.data.prepare import find_store, prepare
from fastiseat.pipelines.stores.store import Store
from fastiseat.recipes import DATASETS, METHODS, OWN_DATA, check, recipe

FILES = {
    kind: [case for case in source_kinds.KINDS.values() if case.name.partition(":")[0] == kind]
    for kind in DATA
    if not DATA[kind].package
}
CASES = [(kind, case) for kind, cases in FILES.items() for case in cases]
each_form = pytest.mark.parametrize(
    ("kind", "case"), CASES, ids=[f"{case.name} {case.source}" for _, case in CASES]
)


def told(*words: str) -> str:
    """What a command prints."""
    with redirect_stdout(io.StringIO()) as out, suppress(SystemExit):  # the parser's way out of help
        main(list(words))
    assert out.getvalue(), words
    return out.getvalue()


@pytest.mark.parametrize("kind", FILES)
def test_there_are_files_of_it_to_try(kind: str) -> None:
    assert FILES[kind], f"tests/source_kinds.py writes no {kind}: nothing here shows that it is read"


@each_form
def test_it_is_prepared_read_and_watched(kind: str, case: source_kinds.Kind, tmp_path: Path) -> None:
    case.place(tmp_path)
    name = case.named(tmp_path)
    store = prepare(name, data_dir=tmp_path)
    read = datasets.load(name, data_dir=tmp_path)
    assert read.name == datasets.absolute(name) == store.info.name
    assert min(len(read.train), len(read.test)) > 0 and read.num_classes > 1
    assert read.train.images.dtype == np.uint8 and read.train.images.ndim == 4
    assert int(read.train.labels.max()) < read.num_classes
    found = find_store(name, data_dir=tmp_path)
    assert found is not None and examine(found).state == "same"
    listing = json.loads((store.path / "source.json").read_text(encoding="utf-8"))["listing"]["folders"]
    assert any(listing.values()), "its files are named, so that a change of them is seen"
    case.place(tmp_path, "content")
    again = Store.at(store.path)
    assert again is not None and examine(again).state == "changed"


@pytest.mark.parametrize("kind", [kind for kind in DATA if DATA[kind].package])
def test_what_comes_with_a_package_is_read_from_there(kind: str) -> None:
    read = datasets.load(kind)
    assert read.name == kind and read.num_classes > 1 and len(read.test) > 0
    side = DATA[kind].side
    assert side is None or read.train.images.shape[1:3] == (side, side)


@pytest.mark.parametrize("kind", DATA)
def test_it_has_a_recipe_with_every_method(kind: str) -> None:
    name = f"{kind}:here" if kind in OWN_DATA else kind
    assert recipe(name).data.dataset == name
    for method, entry in METHODS.items():
        if not entry.needs and entry.num_views == 1:
            check(recipe(name, method))
    assert DATASETS[kind].__doc__


def test_lists_and_help_name_each_of_them() -> None:
    assert [row["data set"] for row in json.loads(told("list", "datasets", "--json"))] == [*map(written, DATA)]
    text = " ".join(told("train", "--help").replace("│", " ").split())
    assert ", ".join(named_sets()) in text
    assert all(written(kind) in text for kind in own_kinds())
    text = " ".join(told("data", "prepare", "--help").replace("│", " ").split())
    assert all(written(kind) in text for kind in FILES)


@each_form
def test_commands_verify_it_and_tell_of_it(kind: str, case: source_kinds.Kind, tmp_path: Path) -> None:
    case.place(tmp_path)
    name = case.named(tmp_path)
    told("data", "prepare", name, "--data-dir", str(tmp_path))
    assert "intact" in told("data", "verify", name, "--data-dir", str(tmp_path)).lower()
    assert name.partition(":")[0] in told("data", "info", name, "--data-dir", str(tmp_path))
