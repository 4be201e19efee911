"""Both variants' forward passes against plain functions written from the specification, in float64."""

import pytest
import torch
import torch.nn.functional as F

from fastiseat.models import VARIANTS, build, export_state_dict


def scrambled(arch, variant):
    """A float64 network whose BatchNorms are far from the identity, so that no mix-up cancels."""
    torch.manual_seed(3)
    model = build(arch, variant=variant, num_classes=5).double()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "bn" in name and tensor.is_floating_point():
                positive = name.endswith(("weight", "running_var"))
                tensor.copy_(torch.rand_like(tensor) + 0.5 if positive else torch.randn_like(tensor) * 0.3)
    return model


def bn_relu(x, p, name, training):
    mean, var = p[f"{name}.running_mean"].clone(), p[f"{name}.running_var"].clone()
    return F.relu(F.batch_norm(x, mean, var, p[f"{name}.weight"], p[f"{name}.bias"], training))


def pooled_logits(x, p, name):
    return F.linear(F.avg_pool2d(x, x.shape[-1]).flatten(1), p[f"{name}.weight"], p[f"{name}.bias"])


def released_wrn(x, p, num_blocks, training):
    x = F.conv2d(x, p["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for index in range(num_blocks):
            block = f"layer{stage}.block{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            h = bn_relu(x, p, f"{block}.bn1", training)
            h = F.conv2d(h, p[f"{block}.conv1.weight"], stride=1, padding=1)
            h = bn_relu(h, p, f"{block}.bn2", training)
            h = F.conv2d(h, p[f"{block}.conv2.weight"], stride=stride, padding=1)
            if x.shape != h.shape:
                x = F.conv2d(x, p[f"{block}.shortcut.0.weight"], stride=stride)
            x = x + h
    return pooled_logits(bn_relu(x, p, "bn1", training), p, "fc0")


def common_wrn(x, p, num_blocks, training):
    x = F.conv2d(x, p["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for index in range(num_blocks):
            block = f"block{stage}.layer.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            first = p[f"{block}.conv1.weight"]
            equal_in_out = first.shape[0] == first.shape[1]
            if equal_in_out:
                h = bn_relu(x, p, f"{block}.bn1", training)
            else:
                h = x = bn_relu(x, p, f"{block}.bn1", training)
            h = F.conv2d(h, first, stride=stride, padding=1)
            h = bn_relu(h, p, f"{block}.bn2", training)
            h = F.conv2d(h, p[f"{block}.conv2.weight"], stride=1, padding=1)
            if not equal_in_out:
                x = F.conv2d(x, p[f"{block}.convShortcut.weight"], stride=stride)
            x = x + h
    return pooled_logits(bn_relu(x, p, "bn1", training), p, "fc")


def preact_resnet(x, p, depths, variant, training):
    x = F.conv2d(x, p["conv1.weight"], padding=1, stride=2 if variant == "consistency-stride-2" else 1)
    if variant.startswith("consistency"):
        x = bn_relu(x, p, "bn1", training)
    for stage, depth in enumerate(depths, start=1):
        for index in range(depth):
            block = f"layer{stage}.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            active = bn_relu(x, p, f"{block}.bn1", training)
            h = F.conv2d(active, p[f"{block}.conv1.weight"], stride=stride, padding=1)
            h = bn_relu(h, p, f"{block}.bn2", training)
            h = F.conv2d(h, p[f"{block}.conv2.weight"], stride=1, padding=1)
            if f"{block}.shortcut.0.weight" in p:
                source = x if variant.startswith("released") else active
                x = F.conv2d(source, p[f"{block}.shortcut.0.weight"], stride=stride)
            x = x + h
    if variant in ("released", "common"):
        x = bn_relu(x, p, "bn", training)
    return pooled_logits(x, p, "linear")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("variant", ["released", "common"])
@pytest.mark.parametrize(("arch", "num_blocks"), [("wrn-10-1", 1), ("wrn-16-2", 2)])
@torch.no_grad()
def test_wide_resnets_follow_the_specification(arch, num_blocks, variant, training):
    model = scrambled(arch, variant).train(training)
    reference = released_wrn if variant == "released" else common_wrn
    images = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    expected = reference(images, export_state_dict(model, layout=variant), num_blocks, training)
    torch.testing.assert_close(model(images), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("arch", "depths"), [("prn18", (2, 2, 2, 2)), ("small", (1, 1, 1))])
@torch.no_grad()
def test_preact_resnets_follow_the_specification(arch, depths, variant, training):
    model = scrambled(arch, variant).train(training)
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    expected = preact_resnet(images, export_state_dict(model), depths, variant, training)
    torch.testing.assert_close(model(images), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("arch", ["prn18", "wrn-10-1"])
@torch.no_grad()
def test_the_variants_differ(arch):
    released, common = scrambled(arch, "released").eval(), scrambled(arch, "common").eval()
    common.load_state_dict(released.state_dict())
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    assert (released(images) - common(images)).abs().max() > 1e-3
