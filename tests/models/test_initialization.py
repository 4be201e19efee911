"""First weights: PyTorch's or He's, by the same seed the same ones."""

import math

import pytest
import torch
from oracles import robustbench
from torch import nn

from fastiseat.config import Network
from fastiseat.errors import UserError
from fastiseat.models import VARIANTS, build, export_state_dict
from fastiseat.names.networks import INITIALIZATIONS
from fastiseat.run.networks import build_network


def modules(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


@pytest.mark.parametrize("arch", ["small", "wrn-16-4"])
def test_he_draws_convolutions_by_their_fan_out(arch):
    torch.manual_seed(0)
    model = build(arch, initialization="he")
    for conv in modules(model, nn.Conv2d):
        weight, std = conv.weight.double(), math.sqrt(2 / (conv.kernel_size[0] ** 2 * conv.out_channels))
        n = weight.numel()
        assert abs(weight.mean()) < 5 * std / math.sqrt(n)
        assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * n))
        # A normal's fourth moment is 3 std⁴, with a variance of 96 std⁸; a uniform one's would be 1.8.
        assert weight.pow(4).mean().item() / std**4 == pytest.approx(3, abs=5 * math.sqrt(96 / n))


@pytest.mark.parametrize("arch", ["small", "wrn-10-1"])
def test_what_he_leaves_to_pytorch(arch):
    he, default = (
        build_network(Network(arch=arch, initialization=how), in_channels=3, num_classes=10, seed=5)
        for how in ("he", "torch")
    )
    for bn in modules(he, nn.BatchNorm2d):
        assert (bn.weight == 1).all() and (bn.bias == 0).all()
    [head], [other] = (modules(model, nn.Linear) for model in (he, default))
    assert torch.equal(head.weight, other.weight)
    assert (head.bias == 0).all() and not (other.bias == 0).any()


def test_a_wide_resnet_by_he_begins_with_the_weights_of_trades_code():
    """Under the same seed to the bit: layers in the same order, drawn by default first, then by He."""
    torch.manual_seed(3)
    published = robustbench.initialized(robustbench.WideResNet(depth=10, widen_factor=2))
    torch.manual_seed(3)
    model = build("wrn-10-2", variant="common", initialization="he")
    found = export_state_dict(model, "common")
    assert published.state_dict().keys() == found.keys()
    assert all(torch.equal(tensor, found[key]) for key, tensor in published.state_dict().items())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("how", INITIALIZATIONS)
def test_a_seed_repeats_them_and_leaves_the_users_generator_alone(how, variant):
    before = torch.get_rng_state()
    network = Network(arch="small", variant=variant, initialization=how)
    first, again, other = (
        export_state_dict(build_network(network, in_channels=1, num_classes=10, seed=seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_another_initialization_is_refused():
    with pytest.raises(UserError, match="unknown initialization 'hee'; did you mean he"):
        build("small", initialization="hee")
    with pytest.raises(UserError, match="initialization=hee: is one of torch, he"):
        Network(initialization="hee")
