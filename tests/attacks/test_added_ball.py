"""The page how to add a ball, word for word: its file outside of the package, its words in a copy of the table."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "add-a-ball.md"
# The table's source with the page's two changes, in the place of the table.
TABLE = """
import importlib.util, re, sys
spec = importlib.util.find_spec("fastiseat.names.balls")
source = open(spec.origin, encoding="utf-8").read()
source, words = re.subn(r"^Norm = Literal.*$", NORM, source, count=1, flags=re.MULTILINE)
before, mark, after = source.partition('}\\n\"\"\"Every ball by name.\"\"\"')
assert words == 1 and mark
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
exec(compile(before + ENTRY + mark + after, spec.origin, "exec"), vars(module))
"""
IN_TRAINING = """
import torch
from fastiseat import AT, AWP, PGD, TrainStep, models
from fastiseat.methods import AT

class Seen(AT):
    def objective(self, at, labels):
        lengths.append((at.x_adv - at.x).abs().flatten(1).sum(1))
        return super().objective(at, labels)

def trained(engine):
    torch.manual_seed(0)
    model = models.build("small", in_channels=1, num_classes=10)
    step = TrainStep(model, method=Seen(), attack=PGD(norm="l1", eps=3.0, step_size=1.0, steps=5, random_start=True),
                     awp=AWP(gamma=0.01), engine=engine)
    x = 0.2 + 0.6 * torch.rand(8, 1, 8, 8)
    for _ in range(2):
        step(x, torch.arange(8))
    return [weight.detach().clone() for weight in model.parameters()]

lengths = []
eager = trained("eager")
found = torch.cat(lengths)
assert 2 < found.median() <= found.max() <= 3 + 1e-5, found  # a pixel's border may come first
assert all(map(torch.equal, eager, trained("tape")))

from fastiseat.attacks import pgd
x, g = 0.5 + torch.zeros(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
of_each = torch.tensor([0.1, 0.2, 0.3])
for eps in (of_each, of_each.view(3, 1, 1, 1)):
    delta = pgd(lambda _: g, x, torch.zeros_like(x), eps=eps, step_size=eps / 2, steps=3, norm="l1").delta
    torch.testing.assert_close(delta.abs().flatten(1).sum(1), of_each)
"""
AS_COMMANDS = """
from fastiseat.__main__ import main
few = ["--epochs", "1", "--limit-train", "100", "--limit-test", "60", "--batch-size", "50", "--final-steps", "0"]
in_l1 = ["train", "--method", "at", "--norm", "l1", "--out", "sparse", *few]
codes = [main(command) for command in (
    [*in_l1, "--eps", "3", "--step-size", "1"],
    ["eval", "sparse", "--attack", "pgd", "apgd-ce", "--steps", "3", "--subset", "8", "--no-sanity"],
    in_l1,
    ["eval", "sparse", "--attack", "aa"],
    ["eval", "sparse", "--attack", "pgd", "--norm", "l2"],
)]
assert codes == [0, 0, 2, 2, 2], codes
"""
REFUSED = (
    "norm=l1: eps=0.15 is the recipe's, which is a length in the L∞ ball",
    "norm=l1: fab-t is defined in the L∞ and L2 balls alone",
    "--norm l2: give --eps; the ε that a weights file tells is that of the L1 ball",
)


@pytest.fixture(scope="module")
def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def folder(blocks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("added")
    (folder / "added_ball.py").write_text(blocks[0], encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(blocks, folder):
    def run(code):
        norm, entry = blocks[1:3]
        whole = f"NORM, ENTRY = {norm.strip()!r}, {entry!r}\n{TABLE}\n{code}"
        return subprocess.run(
            [sys.executable, "-c", whole], cwd=folder, capture_output=True, text=True, encoding="utf-8"
        )

    return run


def test_a_step_stays_in_it_and_is_taped_as_eager(run):
    done = run(IN_TRAINING)
    assert done.returncode == 0, done.stderr


def test_a_run_is_trained_and_evaluated_in_it_and_refused_where_nothing_has_it(run):
    done = run(AS_COMMANDS)
    assert done.returncode == 0, done.stderr
    assert "test accuracy, L1 ε = 3" in done.stdout
    assert re.search(r"apgd-ce.* 3 .*L1", done.stdout)
    said = " ".join(done.stderr.split())
    assert [line for line in REFUSED if line not in said] == []
    assert "Traceback" not in said
