"""An exported file gives its source's numbers when it is loaded as its card says."""

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from network_forms import pairs
from torch import nn

from fastiseat.export import FORMATS, export, formats, plain_networks, read_source, robustbench
from fastiseat.export.plain import exported_program
from fastiseat.models import VARIANTS, build, read_weights

NETWORKS = {
    "small": ("small", "released", 1),
    "small-common": ("small", "common", 3),
    "wrn-released": ("wrn-10-1", "released", 3),
    "wrn-common": ("wrn-10-1", "common", 3),
    "wrn-common-grey": ("wrn-10-1", "common", 1),
    "small-consistency": ("small", "consistency", 3),
}
PRN18 = {f"prn18-{variant}": ("prn18", variant, 3) for variant in VARIANTS}
TRACED = ("onnx", "torch-export")  # slowly; networks in plain PyTorch are compared with ours below
CASES = [
    pytest.param(to, name, marks=pytest.mark.long if to in TRACED and name not in ("small", "wrn-common") else ())
    for to in FORMATS
    for name in NETWORKS
] + [("robustbench", name) for name in PRN18]
# Where users of RobustBench find a network's class, if it isn't in the file that is written beside the weights.
CLASSES = {
    "wrn-common-grey": "fastiseat.models.wide_resnet",
    "wrn-common": "oracles.robustbench",
    **{name: "oracles.robustbench" for name in PRN18 if "consistency" not in name},
}


@pytest.mark.parametrize(("to", "name"), CASES)
def test_the_card_says_how_to_get_the_sources_numbers(source, robustbench, run_snippet, to, name):
    arch, variant, channels = {**NETWORKS, **PRN18}[name]
    network = source(arch, variant, channels=channels, classes=7)
    out = Path(f"net{FORMATS[to].suffix}")
    exported = export(network, to, out)
    assert exported.difference < 1e-5
    found = run_snippet(Path(f"{out}.md").read_text(encoding="utf-8"))
    logits = torch.as_tensor(found["logits"]).detach()
    assert logits.shape == (8, 7)
    torch.testing.assert_close(logits, network.model(found["images"]).detach(), rtol=1e-4, atol=1e-5)
    if to == "robustbench":  # whose load_state_dict refuses keys that are missing or too many
        module = CLASSES.get(name, "plain_networks")
        assert type(found["model"]).__module__ == module
        assert ("plain_networks.py" in {path.name for path in exported.files}) == (module == "plain_networks")
        assert ("RobustBench has no class" in exported.note) == (module != "oracles.robustbench")


def test_robustbenchs_classes_pool_32_by_32(source, robustbench, run_snippet):
    network = source("prn18", "common", channels=3, dataset="tinyimagenet")
    assert "and images of 64×64: plain_networks.py" in export(network, "robustbench", Path("net.pt")).note
    found = run_snippet(Path("net.pt.md").read_text(encoding="utf-8"))
    assert found["images"].shape == (8, 3, 64, 64)
    torch.testing.assert_close(found["logits"], network.model(found["images"]), rtol=1e-4, atol=1e-5)


WITHOUT_FASTISEAT = """
import sys, torch
sys.modules["fastiseat"] = None
model = torch.export.load("net.pt2").module()
images, logits = torch.load("expected.pt")
images.requires_grad_()
for found, expected in ((model(images), logits), (model(images[:1]), logits[:1])):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
model(images).sum().backward()
assert images.grad.abs().sum() > 0
"""


def test_torch_export_needs_no_fastiseat(source, tmp_path):
    network = source("wrn-10-1", channels=3)
    export(network, "torch-export", Path("net.pt2"))
    images = torch.rand(9, 3, 24, 16)
    torch.save((images, network.model(images).detach()), "expected.pt")
    done = subprocess.run([sys.executable, "-c", WITHOUT_FASTISEAT], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_onnx_takes_any_batch_and_size(source):
    import onnx
    import onnxruntime

    network = source("wrn-10-1", "common", channels=3)
    export(network, "onnx", Path("net.onnx"))
    onnx.checker.check_model("net.onnx", full_check=True)
    session = onnxruntime.InferenceSession("net.onnx")
    assert [item.shape for item in session.get_inputs()] == [["batch", 3, "height", "width"]]
    for shape in ((1, 3, 32, 32), (7, 3, 16, 24)):
        images = torch.rand(shape)
        (found,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(found, network.model(images).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_safetensors_keep_all_that_is_told_and_every_bit(source):
    network = source(dataset="digits", eps="0.15", method="iseat", epoch="3")
    export(network, "safetensors", Path("net.safetensors"))
    found = read_weights("net.safetensors")
    expected = {
        "arch": "small",
        "variant": "released",
        "in_channels": "1",
        "num_classes": "10",
        "dataset": "digits",
    }
    assert expected.items() | {("eps", "0.15"), ("method", "iseat"), ("epoch", "3")} <= found.metadata.items()
    assert all(found.state[key].equal(tensor) for key, tensor in network.model.state_dict().items())


@pytest.mark.parametrize("to", FORMATS)
def test_float64_stays_in_our_format_and_is_rounded_in_others(source, run_snippet, to):
    network = source(dtype=torch.float64)
    out = Path(f"net{FORMATS[to].suffix}")
    exported = export(network, to, out)
    assert ("rounded to float32" in exported.note) == (to != "safetensors")
    found = run_snippet(Path(f"{out}.md").read_text(encoding="utf-8"))
    logits = torch.as_tensor(found["logits"])
    assert logits.dtype == (torch.float64 if to == "safetensors" else torch.float32)
    assert network.dtype == torch.float64  # the source is as it was


@pytest.mark.parametrize("to", FORMATS)
def test_a_file_is_the_same_bytes_each_time(source, to, monkeypatch):
    """Whoever exports a network, the SHA-256 in its card is that one."""
    alive, made = [], formats.exported_program
    monkeypatch.setattr(formats, "exported_program", lambda of: alive.append(made(of)) or alive[-1])
    source(dataset="digits", method="at", eps="0.1")
    first, second = (FORMATS[to].encode(read_source(Path("from/weights.safetensors"))) for _ in range(2))
    assert first == second


def test_safetensors_are_the_same_bytes_each_time(source):
    network = source(dataset="digits")
    first, second = (FORMATS["safetensors"].encode(network) for _ in range(2))
    assert first == second
    assert first.index(b'"arch"') < first.index(b'"dataset"') < first.index(b'"variant"')


@pytest.mark.parametrize(("arch", "variant"), [*pairs("small", "prn18"), ("wrn-16-2", "released")])
def test_plain_networks_are_our_networks(arch, variant):
    ours = build(arch, variant=variant, in_channels=2, num_classes=3).eval()
    plain = plain_networks.network(arch, variant=variant, in_channels=2, num_classes=3).eval()
    plain.load_state_dict(ours.state_dict())
    images = torch.rand(2, 2, 16, 16)
    torch.testing.assert_close(plain(images), ours(images), rtol=1e-4, atol=1e-5)


class Normalised(nn.Module):
    """A part that a network may have before its first layer, with tensors of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.3]).view(1, 1, 1, 1))

    def forward(self, x):
        return x - self.mean


@pytest.fixture
def normalised(source, monkeypatch):
    """A network with a part more than its architecture has."""
    network = source()
    model = copy.deepcopy(network.model)
    model.conv1 = nn.Sequential(Normalised(), model.conv1)
    return replace(network, model=model.eval())


def test_what_a_network_has_beyond_its_architecture_is_exported_too(normalised):
    images = torch.rand(2, 1, 8, 8)
    logits = exported_program(normalised).module()(images)
    torch.testing.assert_close(logits, normalised.model(images).detach(), rtol=1e-4, atol=1e-5)
    Path("net.pt").write_bytes(robustbench.encode(normalised))
    state = torch.load("net.pt", weights_only=True)["state_dict"]
    assert state.keys() == normalised.model.state_dict().keys()
    assert robustbench.own_class(normalised) is None
    assert not robustbench.plain_class(normalised)
    assert "fastiseat.load_model" in robustbench.note(normalised)
