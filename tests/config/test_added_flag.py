"""The page how to add a flag, word for word: its field and its method in the place of the package's own files."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastiseat.config.objective

PAGE = Path(__file__).parents[2] / "docs" / "add-a-flag.md"
# Both modules come from the files of the page, whoever imports them first.
INSTEAD = """
import sys
from importlib.util import spec_from_file_location

class Instead:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("fastiseat.config.objective", "fastiseat.methods.at"):
            return spec_from_file_location(name, f"{name}.py")

sys.meta_path.insert(0, Instead)
"""
AS_A_STEP = """
import copy
import torch
import torch.nn.functional as F
from fastiseat import AT, TrainStep, UserError, models
from fastiseat.config import Objective
from fastiseat.methods import from_config

method = from_config(Objective(method="at-awp", label_smoothing=0.2))
assert method == AT(label_smoothing=0.2)
torch.manual_seed(0)
model = models.build("small", in_channels=1, num_classes=3)
before, x, y = copy.deepcopy(model), torch.rand(6, 1, 8, 8), torch.arange(6) % 3
delta = 0.03 * torch.randn_like(x).sign()
step = TrainStep(model, method=method, engine="eager")
expected = F.cross_entropy(before((x + delta).clamp(0, 1)), y, label_smoothing=0.2)
torch.testing.assert_close(step(x, y, delta)["loss"], expected.detach(), rtol=1e-5, atol=0)

for refused in ({"method": "iseat", "label_smoothing": 0.2}, {"method": "at", "label_smoothing": 1.0}):
    try:
        from_config(Objective(**refused))
    except UserError as error:
        print(error)
"""
AS_COMMANDS = """
from fastiseat.__main__ import main
few = ["--epochs", "1", "--limit-train", "100", "--limit-test", "60", "--batch-size", "50", "--final-steps", "0"]
smooth = ["train", "--label-smoothing", "0.25", *few, "--steps", "1"]
codes = [main(command) for command in (
    [*smooth, "--method", "at", "--out", "smooth"],
    ["train", "--config", "smooth/config.json", "--out", "other", "--label-smoothing", "0"],
    [*smooth, "--method", "trades", "--out", "wrong"],
    ["train", "--resume", "--out", "smooth", "--label-smoothing", "0.5"],
)]
assert codes == [0, 0, 2, 2], codes
main(["train", "--help"])
"""
HAVING = "methods at, at-awp, at-rice, awp-wu have"


def changed(source, field, check):
    """The package's file with the page's two pieces."""
    source, imports = re.subn("import Only, ", "import Only, require, ", source, count=1)
    before, mark, after = source.partition("\n    def __post_init__")
    assert imports and mark
    return f"{before}{field}{mark}{after}{check}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    field, check, method = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    source = Path(fastiseat.config.objective.__file__).read_text(encoding="utf-8")
    folder = tmp_path_factory.mktemp("added")
    (folder / "fastiseat.config.objective.py").write_text(changed(source, field, check), encoding="utf-8")
    (folder / "fastiseat.methods.at.py").write_text(method, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    def run(code):
        command = [sys.executable, "-c", f"{INSTEAD}\n{code}"]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")

    return run


def test_it_reaches_the_step_and_is_refused_elsewhere(run):
    done = run(AS_A_STEP)
    assert done.returncode == 0, done.stderr
    other_method, other_value = done.stdout.splitlines()
    assert other_method == f"label_smoothing=0.2: method iseat has no such option; {HAVING}"
    assert other_value == "label_smoothing=1.0: must lie in 0 … 1, 1 excluded"


def test_it_is_a_flag_with_all_that_flags_have(run, folder):
    done = run(AS_COMMANDS)
    help_text = " ".join(done.stdout.replace("│", " ").split())
    assert "--label-smoothing FLOAT" in help_text and "spreads over all classes alike" in help_text
    smooth, other = (json.loads((folder / out / "config.json").read_text()) for out in ("smooth", "other"))
    assert smooth["config"]["objective"]["label_smoothing"] == 0.25
    assert other["config"]["objective"]["label_smoothing"] == 0
    said = " ".join(done.stderr.split())
    assert f"label_smoothing=0.25: method trades has no such option; {HAVING}" in said
    assert "(objective.label_smoothing: 0.25 -> 0.5)" in said
    assert "Traceback" not in said
