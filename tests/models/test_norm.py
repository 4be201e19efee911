"""The networks with fused BatchNorms are the ones that people write, to the last bit; nothing is left behind."""

import copy

import pytest
import torch
from devices import DEVICES
from network_forms import BLOCKS, pairs
from torch import nn
from torch.func import functional_call

from fastiseat.bench.baselines.networks import plain
from fastiseat.fusion import norm
from fastiseat.fusion.norm import BatchNormReLU, one_pass
from fastiseat.models import blocks, build
from fastiseat.models.plain import PreActBlock as PlainBlock

NETWORKS = [*pairs("small", "wrn-16-2"), *(("prn18", variant) for variant in BLOCKS)]
# Sums in another order: of few values in float64; float32 is multiplied by up to 17 BatchNorms of small batches.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-3}


def pair(arch, variant, dtype=torch.float64, device="cpu"):
    """A network and the plain one, of equal tensors; no BatchNorm is near the identity."""
    torch.manual_seed(3)
    ours = build(arch, variant=variant, num_classes=5).to(device=device, dtype=dtype)
    with torch.no_grad():
        for name, tensor in ours.state_dict().items():
            if "bn" in name and tensor.is_floating_point():
                positive = name.endswith(("weight", "running_var"))
                tensor.copy_(torch.rand_like(tensor) + 0.5 if positive else torch.randn_like(tensor) * 0.3)
    return ours, plain(copy.deepcopy(ours))


def images(dtype=torch.float64, device="cpu"):
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=dtype).to(device)


def logits_and_gradients(model, x):
    x = x.clone().requires_grad_()
    logits = model(x)
    loss = logits.square().sum()
    return logits.detach(), dict(
        zip(
            ["images", *dict(model.named_parameters())],
            torch.autograd.grad(loss, [x, *model.parameters()]),
            strict=True,
        )
    )


def assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        difference = (found[name].double() - value.double()).norm()
        assert difference <= tolerance * value.double().norm().clamp_min(1e-6), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("arch", "variant"), NETWORKS)
def test_logits_gradients_and_statistics_are_the_plain_networks(arch, variant, training, dtype, device):
    ours, theirs = (model.train(training) for model in pair(arch, variant, dtype, device))
    before = copy.deepcopy(ours.state_dict())
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for turn in range(2):
        logits, gradients = logits_and_gradients(ours, images(dtype, device))
        expected, expected_gradients = logits_and_gradients(theirs, images(dtype, device))
        assert_close({"logits": logits}, {"logits": expected}, TOLERANCE[dtype])
        assert_close(gradients, expected_gradients, TOLERANCE[dtype])
        counts = {int(tensor) for name, tensor in ours.state_dict().items() if "tracked" in name}
        assert counts == {turn + 1 if training else 0}
    assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()), TOLERANCE[dtype])
    if not training:
        assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())


@pytest.mark.parametrize("variant", BLOCKS)
@pytest.mark.parametrize("shape", [(4, 4, (1, 1)), (4, 6, (2, 1))])
def test_a_block_alone_returns_its_addends_and_writes_its_statistics(shape, variant):
    in_width, width, strides = shape
    ours = blocks.PreActBlock(in_width, width, strides=strides, variant=variant).double()
    theirs = PlainBlock(in_width, width, strides, variant == "released").double()
    theirs.load_state_dict(ours.state_dict())
    a, b = torch.randn(2, 3, in_width, 8, 8, dtype=torch.float64)
    residual, shortcut = ours((a, b))
    torch.testing.assert_close(residual + shortcut, theirs(a + b))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_plain_shares_the_tensors_and_the_mode():
    ours = build("small", variant="common").eval()
    theirs = plain(ours)
    assert not theirs.training
    assert all(
        tensor.data_ptr() == other.data_ptr()
        for tensor, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    )
    assert not any(isinstance(module, BatchNormReLU) for module in theirs.modules())
    assert plain(linear := nn.Linear(2, 2)) is linear


@pytest.mark.parametrize("momentum", [0.1, 0.37, 1.0, 0.0, None])
def test_momentum_is_pytorchs(momentum):
    ours, theirs = BatchNormReLU(6).double(), nn.BatchNorm2d(6).double()
    ours.momentum = theirs.momentum = momentum
    for _ in range(3):
        a = torch.randn(5, 6, 3, 2, dtype=torch.float64)
        s, y = ours(a)
        torch.testing.assert_close(y, torch.relu(theirs(a)))
        assert torch.equal(s, a)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-12, atol=1e-12)


def test_layers_of_several_momenta_and_one_layer_twice_in_a_pass():
    ours = nn.ModuleList(BatchNormReLU(3).double() for _ in range(3))
    theirs = nn.ModuleList(nn.BatchNorm2d(3).double() for _ in range(3))
    for models in (ours, theirs):
        models[1].momentum, models[2].momentum = 0.4, None
    inputs = torch.randn(4, 5, 3, 2, 2, dtype=torch.float64)
    with one_pass():
        for x, index in zip(inputs, (0, 1, 2, 1), strict=True):
            ours[index](x)
        assert [int(layer.num_batches_tracked) for layer in ours] == [1, 1, 1], "the second turn waits"
    for x, index in zip(inputs, (0, 1, 2, 1), strict=True):
        theirs[index](x)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-12, atol=1e-12)


def test_swa_utils_estimates_the_statistics_anew():
    ours, theirs = pair("small", "released")
    batches = [images(), images().square()]
    for model in (ours, theirs):
        torch.optim.swa_utils.update_bn(batches, model)
    assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()), 1e-10)


def test_statistics_go_into_the_tensors_that_stand_in():
    """Throw-away passes: clones take the update, the network's own stay."""
    model, _ = pair("small", "released")
    before = copy.deepcopy(model.state_dict())
    clones = {name: buffer.clone() for name, buffer in model.named_buffers()}
    functional_call(model, clones, (images(),))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model(images())
    torch.testing.assert_close(clones, dict(model.named_buffers()))


def test_an_exception_leaves_nothing_behind():
    model, _ = pair("small", "released")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="channels"):
        model(torch.rand(2, 5, 8, 8, dtype=torch.float64))
    hook = model.linear.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(images())
    assert norm._THREAD.batches is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    hook.remove()
    model(images())
    assert {int(tensor) for name, tensor in model.named_buffers() if "tracked" in name} == {1}


def test_a_pass_within_a_pass_is_its_own():
    inner, outer = BatchNormReLU(2), BatchNormReLU(2)
    with one_pass():
        outer(torch.rand(2, 2, 2, 2))
        with one_pass():
            inner(torch.rand(2, 2, 2, 2))
        assert (int(inner.num_batches_tracked), int(outer.num_batches_tracked)) == (1, 0)
    assert (int(inner.num_batches_tracked), int(outer.num_batches_tracked)) == (1, 1)


def test_wrong_shapes_are_refused_as_by_pytorch():
    with pytest.raises(ValueError, match="expected 4D input"):
        BatchNormReLU(2)(torch.rand(2, 2))


def test_a_compiler_sees_one_graph():
    model, theirs = pair("small", "released")
    torch.compiler.reset()
    found = torch.compile(model, backend="eager", fullgraph=True)(images())
    torch.testing.assert_close(found, theirs(images()))
    torch.testing.assert_close(dict(model.named_buffers()), dict(theirs.named_buffers()))
    torch.compiler.reset()
