"""The page how to add a data set, word for word: its file outside of the package, its entry in a copy of the table."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "add-a-data-set.md"
# The table's source with the page's entry, in the place of the table.
TABLE = """
import importlib.util, sys
spec = importlib.util.find_spec("fastiseat.names.data")
source = open(spec.origin, encoding="utf-8").read()
before, mark, after = source.partition('}\\n\"\"\"Every data set and kind')
assert mark
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
exec(compile(before + ENTRY + mark + after, spec.origin, "exec"), vars(module))
"""
AS_ARRAYS = """
import os
import numpy as np
from pathlib import Path
from fastiseat.errors import UserError
from fastiseat.pipelines.data import datasets
from fastiseat.pipelines.data.freshness import examine
from fastiseat.pipelines.data.prepare import find_store

folder, draw = Path("own"), np.random.default_rng(0)
folder.mkdir()
saved = {}
for split, count in {"train": 60, "test": 40}.items():
    saved[f"{split}_images"] = draw.integers(256, size=(count, 8, 8, 3), dtype=np.uint8)
    saved[f"{split}_labels"] = np.arange(count) % 3

def save(**changed):
    for name, array in (saved | changed).items():
        np.save(folder / f"{name}.npy", array)

save()
read = datasets.load("npy:own")
assert read.name == f"npy:{folder.resolve()}" and read.num_classes == 3
assert np.array_equal(read.train.images, saved["train_images"])
assert np.array_equal(read.test.labels, saved["test_labels"])
assert examine(find_store("npy:own")).state == "same"

save(train_labels=saved["train_labels"][::-1])
assert examine(find_store("npy:own")).state == "changed"
assert np.array_equal(datasets.load("npy:own").train.labels, saved["train_labels"][::-1])

def refused(words):
    try:
        datasets.load("npy:own")
    except UserError as error:
        assert words in str(error), error
    else:
        raise AssertionError(words)

save(train_images=saved["train_images"][..., 0])
refused("train images are uint8 (60, 8, 8); save uint8")
save(test_labels=np.array([object()] * 40))
refused("test_labels.npy: damaged, truncated or not saved by numpy (numbers in C's order are needed)")
save(test_labels=saved["test_labels"] + 1)
refused("label 3 is out of range")
os.remove(folder / "test_labels.npy")
refused("test_labels.npy: no such file; give a folder with {train,test}_{images,labels}.npy")
os.mkfifo(folder / "test_labels.npy")
refused("it is a named pipe")
os.remove(folder / "test_labels.npy")
save()
"""
AS_COMMANDS = """
from fastiseat.__main__ import main
few = ["--arch", "small", "--epochs", "1", "--max-steps", "1", "--batch-size", "30", "--final-steps", "0"]
codes = [main(command) for command in (
    ["data", "prepare", "npy:own", "--force"],
    ["data", "verify", "npy:own"],
    ["train", "--dataset", "npy:own", "--method", "at", "--steps", "1", "--out", "mine", *few],
    ["list", "datasets", "--json"],
    ["data", "prepare", "npy:own", "--image-size", "4"],
)]
assert codes == [0, 0, 0, 0, 2], codes
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    file, entry = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    folder = tmp_path_factory.mktemp("added")
    (folder / "added_data.py").write_text(file, encoding="utf-8")
    home = {"HOME": str(folder), "FASTISEAT_DATA": str(folder)}

    def run(code):
        return subprocess.run(
            [sys.executable, "-c", f"ENTRY = {entry!r}\n{TABLE}\n{code}"],
            cwd=folder,
            env=os.environ | home,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )

    return run


def test_it_is_prepared_watched_refused_and_trained_on(run):
    done = run(AS_ARRAYS + AS_COMMANDS)
    assert done.returncode == 0, done.stderr
    assert '"npy:DIR"' in done.stdout
    assert "Traceback" not in done.stderr
    assert "image-size" in done.stderr
