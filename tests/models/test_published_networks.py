"""The classes that other papers publish: built, trained a step, loaded from their files, exported."""

from itertools import combinations
from pathlib import Path

import pytest
import torch
from network_forms import pairs
from oracles import consistency_networks as tack
from oracles import robustbench
from safetensors.torch import save_file

from fastiseat.config import Network
from fastiseat.errors import UserError
from fastiseat.export import FORMATS, export, plain_networks, read_source
from fastiseat.models import build, export_state_dict, load_model, metadata, read_weights
from fastiseat.names.networks import FORMS, VARIANTS, variants_of


def prn18(*, bn, out_shortcut):
    return lambda: robustbench.PreActResNet(
        robustbench.PreActBlock, [2] * 4, bn_before_fc=bn, out_shortcut=out_shortcut
    )


PUBLISHED = {
    # network: arch, variant, how many variants have its keys, side of its images
    "RobustBench, Wong2020Fast": (prn18(bn=False, out_shortcut=False), "prn18", "released-no-bn", 32),
    "pytorch-cifar": (prn18(bn=False, out_shortcut=True), "prn18", "common-no-bn", 32),
    "RobustBench, bn_before_fc": (prn18(bn=True, out_shortcut=False), "prn18", "released", 32),
    "RobustBench, Rice2020": (prn18(bn=True, out_shortcut=True), "prn18", "common", 32),
    "Tack et al.": (lambda: tack.PreActResNet18(10), "prn18", "consistency", 32),
    "Tack et al., Tiny ImageNet": (lambda: tack.PreActResNet18(200, 2), "prn18", "consistency-stride-2", 64),
    "Tack et al., wide": (lambda: tack.WideResNet(10, 10, 1), "wrn-10-1", "common", 32),
}
TAKEN = ("common", "released-no-bn", "consistency", "consistency-stride-2")
"""Variants that a file without a word on it is taken for."""


def published(name):
    torch.manual_seed(1)
    net = PUBLISHED[name][0]().double()
    with torch.no_grad():
        for key, tensor in net.state_dict().items():
            if "bn" in key and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return net


@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_and_gradients_of_a_published_class_from_its_file(tmp_path, name):
    net, (_, arch, variant, side) = published(name), PUBLISHED[name]
    torch.save({"state_dict": net.state_dict()}, tmp_path / "w.pt")
    lines = []
    model = load_model(tmp_path / "w.pt", variant=None if variant in TAKEN else variant, say=lines.append)
    assert len(lines) == (arch == "prn18" and variant in TAKEN)
    assert all(f"taken for {variant!r}" in line for line in lines)
    assert (model.spec.arch, model.spec.variant) == (arch, variant)
    images = torch.rand(2, 3, side, side, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), net.eval()(images), rtol=1e-12, atol=1e-12)
    (logits, found), (expected, gradients) = (
        step(each.train(), images.clone().requires_grad_()) for each in (model, net)
    )
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, gradients, rtol=1e-9, atol=1e-9)


def step(net, images):
    """Logits, and the norms of all gradients: keys differ in names and order."""
    net.zero_grad()
    logits = net(images)
    logits.square().sum().backward()
    norms = sorted(weight.grad.norm().item() for weight in net.parameters())
    return logits.detach(), torch.tensor([images.grad.norm().item(), *norms])


@pytest.mark.parametrize(("arch", "variant"), pairs("small", "wrn-10-1"))
def test_every_network_is_built_saved_loaded_and_exported(tmp_path, arch, variant):
    model = build(arch, variant=variant, num_classes=7).double()
    images = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    model(images)
    logits = model.eval()(images).detach()
    save_file(export_state_dict(model), tmp_path / "told.safetensors", metadata(model.spec))
    assert torch.equal(load_model(tmp_path / "told.safetensors")(images), logits)
    layout = "common" if variant == "common" else "released"
    save_file(export_state_dict(model, layout), tmp_path / "untold.safetensors")
    weights = read_weights(tmp_path / "untold.safetensors")
    assert variant in weights.variants
    told = None if weights.variant_told else variant
    assert torch.equal(load_model(tmp_path / "untold.safetensors", variant=told)(images), logits)


@pytest.mark.parametrize(("arch", "variant"), pairs("small", "wrn-10-1"))
@pytest.mark.parametrize("to", ["safetensors", "robustbench"])
def test_every_network_is_exported(tmp_path, monkeypatch, arch, variant, to):
    monkeypatch.chdir(tmp_path)
    model = build(arch, variant=variant, num_classes=7)
    save_file(export_state_dict(model), "w.safetensors", metadata(model.spec))
    out = export(read_source(Path("w.safetensors")), to, Path(f"net{FORMATS[to].suffix}")).files[0]
    assert load_model(out).spec == model.spec
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(load_model(out)(images), model.eval()(images))


def test_the_networks_differ():
    """Also where their keys are the same."""
    images, logits = torch.rand(2, 3, 32, 32, dtype=torch.float64), {}
    for variant in VARIANTS:
        torch.manual_seed(1)
        logits[variant] = build("small", variant=variant).double()(images)
    for one, other in combinations(VARIANTS, 2):
        assert (logits[one] - logits[other]).abs().max() > 1e-3


@pytest.mark.parametrize(("arch", "variant"), pairs("prn18"))
def test_keys_tell_as_much_as_they_can(tmp_path, arch, variant):
    model = build(arch, variant=variant)
    save_file(export_state_dict(model), tmp_path / "w.safetensors")
    same = [
        other
        for other in variants_of(arch)
        if build(arch, variant=other).state_dict().keys() == model.state_dict().keys()
    ]
    assert list(read_weights(tmp_path / "w.safetensors").variants) == same


def test_a_variant_that_the_keys_exclude_is_refused(tmp_path):
    model = build("prn18", variant="consistency")
    torch.save(model.state_dict(), tmp_path / "w.pt")
    words = r"holds prn18 with the keys of consistency or consistency-stride-2, which variant='common' contradicts"
    with pytest.raises(UserError, match=words):
        load_model(tmp_path / "w.pt", variant="common")
    stated = metadata(model.spec) | {"variant": "released"}
    save_file(export_state_dict(model), tmp_path / "w.safetensors", stated)
    words = "says variant released, its keys are those of consistency or consistency-stride-2; export it again"
    with pytest.raises(UserError, match=words):
        load_model(tmp_path / "w.safetensors")


def test_wide_resnets_have_two_variants():
    assert variants_of("wrn-34-10") == ("released", "common")
    for make in (
        lambda: build("wrn-10-1", variant="consistency"),
        lambda: Network(arch="wrn-10-1", variant="consistency"),
    ):
        with pytest.raises(UserError, match="variant 'consistency': wrn-10-1 has released and common alone"):
            make()


def test_two_heads_are_refused(tmp_path):
    state = tack.WideResNet(10, 10, 1).state_dict()
    state |= {"fc.weight": state["linear.weight"], "fc.bias": state["linear.bias"]}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match="or in the head's name"):
        load_model(tmp_path / "w.pt")


def test_every_variant_says_whose_it_is():
    assert tuple(FORMS) == VARIANTS
    assert all(form.code for form in FORMS.values())
    assert plain_networks.VARIANTS.keys() == FORMS.keys()
