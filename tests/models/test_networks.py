"""Sizes, cost, initial weights and the ways of running that training relies on."""

import pytest
import torch
from network_forms import networks
from torch import nn

from fastiseat.errors import UserError
from fastiseat.models import VARIANTS, build

SMALL_NETS = ["small", "wrn-10-1"]


def count_macs(arch, variant, size):
    """Multiply-accumulates of the convolutions and linear layers for one image, without computing any."""
    with torch.device("meta"):
        model = build(arch, variant=variant).eval()
    total = 0

    def add(module, inputs, output):
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(add)
    model(torch.zeros(1, 3, size, size, device="meta"))
    return total


@pytest.mark.parametrize(
    ("arch", "variant", "size", "giga"),
    [
        ("wrn-34-10", "released", 32, "7.37"),
        ("wrn-34-10", "common", 32, "6.66"),
        ("wrn-28-10", "released", 32, "5.95"),
        ("prn18", "released", 32, "0.555"),
        ("prn18", "common", 32, "0.555"),
        ("prn18", "released", 64, "2.222"),
        ("prn18", "released-no-bn", 32, "0.555"),
        ("prn18", "consistency", 32, "0.555"),
        ("prn18", "consistency-stride-2", 64, "0.555"),
    ],
)
def test_macs_are_the_specified_ones(arch, variant, size, giga):
    digits = len(giga.split(".")[1])
    assert f"{count_macs(arch, variant, size) / 1e9:.{digits}f}" == giga


def test_prn18_has_the_specified_keys():
    with torch.device("meta"):
        keys = {key.rpartition(".")[0] for key in build("prn18").state_dict()}
    blocks = {f"layer{stage}.{index}" for stage in range(1, 5) for index in range(2)}
    expected = {f"{block}.{part}" for block in blocks for part in ("bn1", "conv1", "bn2", "conv2")}
    expected |= {f"layer{stage}.0.shortcut.0" for stage in (2, 3, 4)}
    assert keys == expected | {"conv1", "bn", "linear"}


def test_wrn_has_the_specified_keys():
    with torch.device("meta"):
        keys = {key.rpartition(".")[0] for key in build("wrn-16-2").state_dict()}
    blocks = {f"layer{stage}.block{index}" for stage in range(1, 4) for index in range(2)}
    expected = {f"{block}.{part}" for block in blocks for part in ("bn1", "conv1", "bn2", "conv2")}
    expected |= {f"layer{stage}.block0.shortcut.0" for stage in (1, 2, 3)}
    assert keys == expected | {"conv1", "bn1", "fc0"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_small_has_the_specified_blocks(variant):
    model = build("small", variant=variant, in_channels=1)
    assert [model.get_submodule(f"layer{n}.0").conv1.out_channels for n in (1, 2, 3)] == [16, 32, 64]
    assert [model.get_submodule(f"layer{n}.0").conv1.stride[0] for n in (1, 2, 3)] == [1, 2, 2]
    assert model(torch.rand(5, 1, 8, 8)).shape == (5, 10)


@networks("small", "prn18", "wrn-10-1", "wrn-16-2")
def test_initial_weights_are_pytorchs_own_under_the_same_seed(arch, variant):
    torch.manual_seed(7)
    model = build(arch, variant=variant)
    torch.manual_seed(7)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fresh = nn.Conv2d(
                module.in_channels,
                module.out_channels,
                module.kernel_size,
                stride=module.stride,
                padding=module.padding,
                bias=False,
            )
        elif isinstance(module, nn.BatchNorm2d):
            fresh = nn.BatchNorm2d(module.num_features)
        elif isinstance(module, nn.Linear):
            fresh = nn.Linear(module.in_features, module.out_features)
        else:
            continue
        found, expected = module.state_dict(), fresh.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


@networks("prn18", "wrn-10-1")
@torch.no_grad()
def test_64x64_images_fit(arch, variant):
    model = build(arch, variant=variant, num_classes=200).eval()
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 200)


@networks(*SMALL_NETS)
def test_channels_last_computes_the_same(arch, variant):
    model = build(arch, variant=variant).double().eval()
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    expected = model(images)
    model = model.to(memory_format=torch.channels_last)
    found = model(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@networks(*SMALL_NETS)
def test_one_graph_serves_two_backward_passes_and_a_second_derivative(arch, variant):
    model = build(arch, variant=variant).double()
    images = torch.rand(4, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    loss = model(images).square().mean()
    first = torch.autograd.grad(loss, images, retain_graph=True)[0]
    again = torch.autograd.grad(loss, [images, *model.parameters()], create_graph=True)
    assert torch.equal(first, again[0])
    assert torch.autograd.grad(again[0].square().sum(), images)[0].isfinite().all()


def test_a_built_network_says_what_it_is():
    spec = build("WRN10-1", variant="common", in_channels=1, num_classes=7).spec
    assert (spec.arch, spec.variant, spec.in_channels, spec.num_classes) == ("wrn-10-1", "common", 1, 7)
    assert str(spec) == "wrn-10-1 (common variant, 1 channels, 7 classes)"


def test_bad_names_are_refused():
    with pytest.raises(UserError, match="unknown network 'smal'; did you mean small"):
        build("smal")
    with pytest.raises(UserError, match="unknown network variant"):
        build("small", variant="theirs")
