"""The page how to add a network, word for word: its file outside of the package, its entry in a copy of the table."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "add-a-network.md"
# The table's source with the page's entry, in the place of the table.
TABLE = """
import importlib.util, sys
spec = importlib.util.find_spec("fastiseat.names.networks")
source = open(spec.origin, encoding="utf-8").read()
before, mark, after = source.partition('}\\n\"\"\"Every network;')
assert mark
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
exec(compile(before + ENTRY + mark + after, spec.origin, "exec"), vars(module))
"""
AS_A_MODULE = """
import copy
import torch
from fastiseat import AWP, PGD, TrainStep, load_model, models
from fastiseat.checkpoint import weights_content
from fastiseat.models import metadata, read_weights

torch.manual_seed(0)
model = models.build("ResNet-20", in_channels=1, num_classes=3)
assert model.spec.arch == "resnet20"
assert (count := sum(w.numel() for w in model.parameters())) == 271_731, count
x, y = torch.rand(8, 1, 8, 8), torch.arange(8) % 3

def trained(engine):
    step = TrainStep(copy.deepcopy(model), method="iseat", attack=PGD(steps=1), awp=AWP(gamma=0.01), engine=engine)
    step(x, y), step(x, y)
    return step.model

eager, tape = trained("eager"), trained("tape")
assert all(map(torch.equal, eager.parameters(), tape.parameters()))
assert not any(map(torch.equal, eager.parameters(), model.parameters()))

open("own.safetensors", "wb").write(weights_content(eager, metadata(eager.spec)))
own = load_model("own.safetensors")
assert torch.equal(own(x), eager.eval()(x))
torch.save(eager.state_dict(), "theirs.pt")
assert read_weights("theirs.pt").arch == "resnet20"
"""
AS_COMMANDS = """
from fastiseat.__main__ import main
few = ["--epochs", "1", "--limit-train", "100", "--limit-test", "60", "--batch-size", "50", "--final-steps", "0"]
train = ["train", "--method", "at", "--arch", "resnet20", *few]
codes = [main(command) for command in (
    [*train, "--out", "plain"],
    ["eval", "plain", "--attack", "clean", "pgd-2", "--subset", "8", "--no-sanity"],
    ["export", "plain", "--to", "robustbench", "--out", "net.pt"],
    ["list", "models", "--json"],
    [*train, "--checkpoint-blocks", "--out", "other"],
    [*train, "--checkpoint-blocks", "--dry-run"],
    [*train, "--variant", "common"],
)]
assert codes == [0, 0, 0, 0, 2, 2, 2], codes
"""
REFUSED = (
    "checkpoint_blocks: resnet20 has no pre-activation blocks, whose inputs alone would be kept; leave it out",
    "variant 'common': resnet20 has released alone",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    file, entry = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    folder = tmp_path_factory.mktemp("added")
    (folder / "added_network.py").write_text(file, encoding="utf-8")

    def run(code):
        command = [sys.executable, "-c", f"ENTRY = {entry!r}\n{TABLE}\n{code}"]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")

    return run


def test_it_is_trained_taped_saved_and_read(run):
    done = run(AS_A_MODULE)
    assert done.returncode == 0, done.stderr


def test_commands_know_it_and_refuse_what_it_lacks(run):
    done = run(AS_COMMANDS)
    assert done.returncode == 0, done.stderr
    assert "ResNet-20, for small images" in done.stdout
    said = " ".join(done.stderr.split())
    assert [line for line in REFUSED if line not in said] == []
    assert said.count(REFUSED[0]) == 2, "by the run and by its dry run"
    assert "Traceback" not in said
