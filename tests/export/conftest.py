"""Networks to export, whose BatchNorms are far from the identity, so that no mix-up cancels."""

import sys
import types

import oracles.robustbench
import pytest
import torch
from safetensors.torch import save_file

from fastiseat.export import read_source
from fastiseat.models import build, export_state_dict, metadata


def scramble(model):
    """Any BatchNorm's tensors at random."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "bn" in name and tensor.is_floating_point():
                positive = name.endswith(("weight", "running_var"))
                tensor.copy_(torch.rand_like(tensor) + 0.5 if positive else torch.randn_like(tensor) * 0.3)
    return model.eval()


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A source from a weights file, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def make(arch="small", variant="released", *, channels=1, classes=10, dtype=torch.float32, **told):
        model = build(arch, variant=variant, in_channels=channels, num_classes=classes).to(dtype)
        (tmp_path / "from").mkdir(exist_ok=True)
        file = tmp_path / "from" / "weights.safetensors"
        save_file(export_state_dict(scramble(model)), file, {**metadata(model.spec), **told})
        return read_source(file)

    return make


@pytest.fixture
def robustbench(monkeypatch):
    """What snippets import from RobustBench."""
    zoo = "robustbench.model_zoo.architectures"
    for name in ("robustbench", "robustbench.model_zoo", zoo, f"{zoo}.resnet", f"{zoo}.wide_resnet"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for name, module in (("WideResNet", "wide_resnet"), ("PreActResNet", "resnet"), ("PreActBlock", "resnet")):
        monkeypatch.setattr(
            sys.modules[f"{zoo}.{module}"], name, getattr(oracles.robustbench, name), raising=False
        )


@pytest.fixture
def run_snippet(monkeypatch):
    """The names that the Python of a card binds, run where the files are."""

    def run(card):
        monkeypatch.syspath_prepend(".")
        monkeypatch.delitem(sys.modules, "plain_networks", raising=False)
        names = {}
        exec(card.partition("```python\n")[2].partition("```")[0], names)
        return names

    return run
