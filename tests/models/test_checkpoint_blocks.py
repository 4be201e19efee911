"""Checkpointed blocks give the numbers of a pass that keeps everything, to the last bit on a CPU."""

import copy
import pickle
from collections import Counter

import pytest
import torch
from devices import DEVICES
from network_forms import BLOCKS, networks
from torch import nn
from torch.func import functional_call
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastiseat.fusion.fuse import fuse
from fastiseat.kernels.core import native
from fastiseat.models import ModelSpec, PreActResNet, build, recompute
from fastiseat.models.factory import needs_no_autocast
from fastiseat.models.network import Network

ARCHS = ["small", "wrn-10-1", "wrn-16-1"]
CONVOLUTION = "aten.convolution.default"
needs_native = pytest.mark.skipif(native.library().handle is None, reason=native.library().missing)
on_both_variants = pytest.mark.parametrize("variant", BLOCKS)
in_both_modes = pytest.mark.parametrize("training", [True, False])


def pair(arch="wrn-10-1", variant="released", *, dtype=torch.float64, device="cpu", training=True):
    return twins(build(arch, variant=variant, num_classes=5).to(device=device, dtype=dtype).train(training))


def twins(plain):
    """Two networks of equal tensors, the second with checkpoints; no BatchNorm is near the identity."""
    with torch.no_grad():
        for name, tensor in plain.state_dict().items():
            if "bn" in name and tensor.is_floating_point():
                positive = name.endswith(("weight", "running_var"))
                tensor.copy_(torch.rand_like(tensor) + 0.5 if positive else torch.randn_like(tensor) * 0.3)
    checkpointed = copy.deepcopy(plain)
    checkpointed.checkpoint_blocks = True
    return plain, checkpointed


def images(dtype=torch.float64, device="cpu", seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, 3, 16, 16, generator=generator, dtype=dtype).to(device).requires_grad_()


def moved(model, dtype=None):
    """θ + ν: other tensors than the model's, with gradients of their own."""
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for name, weight in model.named_parameters():
        noise = 0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        tensors[name] = (weight.detach() + noise).to(dtype or weight.dtype).requires_grad_()
    return tensors


def loss_of(logits):
    return logits.float().log_softmax(1)[:, 0].sum() if logits.dtype == torch.bfloat16 else logits.square().sum()


def result(model, x, weights=None):
    """Logits, gradients of images and weights, and the buffers after it all."""
    logits = model(x) if weights is None else functional_call(model, weights, (x,))
    leaves = [x, *(model.parameters() if weights is None else weights.values())]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    gradients = torch.autograd.grad(loss_of(logits), wanted)
    return [logits.detach(), *gradients, *(buffer.clone() for buffer in model.buffers())]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if one.is_cuda:  # convolutions may sum in any order there
            assert (one.double() - other.double()).norm() <= 2e-3 * other.double().norm().clamp_min(1e-6)
        else:
            assert torch.equal(one, other)


class Ops(TorchDispatchMode):
    """What is computed: how often each op ran, and the bytes of what lives on of its results."""

    def __init__(self):
        super().__init__()
        self.counts, self.results = Counter(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        self.counts[str(func)] += 1
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.results[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return output

    def bytes_alive(self, model):
        """Views of the model's own tensors aside."""
        own = {tensor.untyped_storage()._cdata for tensor in model.state_dict().values()}
        alive = [size for at, (storage, size) in self.results.items() if at not in own and not storage.expired()]
        return sum(alive)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@in_both_modes
@networks(*ARCHS)
def test_logits_gradients_and_statistics(arch, variant, training, dtype, device):
    plain, checkpointed = pair(arch, variant, dtype=dtype, device=device, training=training)
    for _ in range(2):
        assert_same(result(checkpointed, images(dtype, device)), result(plain, images(dtype, device)))
    counts = {int(buffer) for name, buffer in checkpointed.named_buffers() if "tracked" in name}
    assert counts == {2 if training else 0}


@in_both_modes
@pytest.mark.parametrize("backend", ["reference", pytest.param("native", marks=needs_native), "triton"])
def test_with_each_backend(backend, training, monkeypatch):
    monkeypatch.setenv("FASTISEAT_KERNELS", backend)
    spec = ModelSpec(arch="small", variant="released", in_channels=3, num_classes=5)
    plain, checkpointed = twins(PreActResNet(spec, depths=(1, 1), widths=(3, 4)).train(training))
    x = images(torch.float32)[:2, :, ::2, ::2].detach().requires_grad_()
    assert_same(result(checkpointed, x), result(plain, x))


@in_both_modes
@on_both_variants
def test_weights_that_stand_in(variant, training):
    """Their own gradients, though the module has its parameters back by the time of the backward."""
    plain, checkpointed = pair(variant=variant, training=training)
    found = result(checkpointed, images(), moved(checkpointed))
    assert_same(found, result(plain, images(), moved(plain)))
    assert all(weight.grad is None for weight in checkpointed.parameters())
    at_theta = result(checkpointed, images())
    assert not torch.equal(found[1], at_theta[1]), "the weights made no difference"


def test_weights_that_are_computed():
    """A graph leads through the tensors that stand in."""
    results = []
    for model in pair():
        shift = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
        logits = functional_call(model, {name: w + shift for name, w in model.named_parameters()}, (images(),))
        results.append(torch.autograd.grad(logits.square().sum(), [shift, *model.parameters()]))
    assert_same(*results)


@in_both_modes
def test_buffers_that_stand_in(training):
    """A pass without a trace: the copies take the statistics, once, and the module's own stay."""
    plain, checkpointed = pair(training=training)
    before = copy.deepcopy(checkpointed.state_dict())
    copies = []
    for model in (plain, checkpointed):
        own = {name: buffer.clone() for name, buffer in model.named_buffers()}
        x = images()
        loss_of(functional_call(model, moved(model) | own, (x,))).backward()
        copies.append([x.grad, *own.values()])
    assert_same(copies[1], copies[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in checkpointed.state_dict().items())


@in_both_modes
@on_both_variants
def test_autocast(variant, training):
    """The backward runs outside of it; its recomputation does not."""
    results = []
    for model in pair(variant=variant, dtype=torch.float32, training=training):
        x = images(torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x)
        results.append([logits, *torch.autograd.grad(loss_of(logits), [x, *model.parameters()]), *model.buffers()])
    assert_same(*results)


@pytest.mark.parametrize("inside", [True, False])
def test_two_passes_with_autocasts_cache(inside):
    """A cast of a weight is kept until autocast ends, whoever made it."""
    results = []
    for model in pair(dtype=torch.float32):
        with torch.autocast("cpu", torch.bfloat16):
            first = result(model, images(torch.float32)) if inside else []
            second = result(model, images(torch.float32, seed=2))
        results.append(first + second)
    assert_same(*results)


def test_half_precision_weights():
    plain, checkpointed = pair(dtype=torch.float32)
    results = []
    for model in (plain, checkpointed):
        half = {name: w for name, w in moved(model, torch.bfloat16).items() if "conv1" in name or "conv2" in name}
        whole = {name: weight for name, weight in moved(model).items() if name not in half}
        whole |= {name: w.detach().bfloat16().requires_grad_() for name, w in whole.items() if "shortcut" in name}
        results.append(result(model, images(torch.float32).bfloat16().detach().requires_grad_(), half | whole))
    assert_same(*results)


def test_only_the_images_gradient():
    (found,), (expected,) = [torch.autograd.grad(loss_of(model(x := images())), x) for model in pair()]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("frozen", ["images", "weights", "convolutions", "norms", "start", "layer1", "layer3"])
def test_what_needs_no_gradient(frozen):
    results = []
    for model in pair(variant="common"):
        x = images().detach() if frozen != "weights" else images()
        for name, weight in model.named_parameters():
            kind = {"weights": True, "convolutions": weight.dim() == 4, "norms": "bn" in name}
            kind["start"] = name.startswith(("conv1", "layer1.block0.bn1", "layer1.block0.conv1"))
            weight.requires_grad_(not kind.get(frozen, frozen in name))
        leaves = [leaf for leaf in (x, *model.parameters()) if leaf.requires_grad]
        results.append(torch.autograd.grad(loss_of(model(x)), leaves))
    assert_same(*results)


def test_a_graph_that_is_kept():
    """Two backwards of other losses through one forward; the second is that of a fresh graph."""
    results = []
    for model in pair():
        x = images()
        logits = model(x)
        first = torch.autograd.grad(loss_of(logits), [x, *model.parameters()], retain_graph=True)
        alone = torch.autograd.grad(logits.sum(), x, retain_graph=True)
        results.append([*first, *alone, *torch.autograd.grad(logits.sum(), [x, *model.parameters()])])
    assert_same(*results)


@in_both_modes
def test_passes_that_live_at_once(training):
    """A clean graph waits while others run forward and backward, at other weights and in the other mode."""
    results = []
    for model in pair(training=training):
        x, other = images(), images(seed=2)
        logits = model(x)
        # Copies of the buffers: statistics that a waiting graph reads must not be written to.
        between = moved(model) | {name: buffer.clone() for name, buffer in model.named_buffers()}
        model.train(not training)
        loss_of(functional_call(model, between, (other,))).backward()
        gradients = torch.autograd.grad(loss_of(logits), [x, *model.parameters()])
        moves = [tensor.grad for tensor in between.values() if tensor.grad is not None]
        results.append([*gradients, other.grad, *moves, *between.values(), *model.buffers()])
    assert_same(*results)


@pytest.mark.parametrize("name", ["conv2.weight", "bn1.bias", "bn2.running_mean"])
def test_a_tensor_that_changed_in_the_meantime_is_an_error(name):
    _, model = pair(training=False)
    loss = loss_of(model(images()))
    with torch.no_grad():
        model.state_dict()[f"layer2.block0.{name}"].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_nothing_without_gradients(monkeypatch):
    plain, checkpointed = pair()
    monkeypatch.setattr(recompute, "checkpoint", None)
    with torch.no_grad():
        assert torch.equal(checkpointed(images()), plain(images()))
    assert_same([*checkpointed.buffers()], [*plain.buffers()])


@on_both_variants
@pytest.mark.parametrize(("arch", "again"), [("small", 3 + 2), ("wrn-16-1", 6 + 2)])
def test_a_convolution_runs_once_more_at_most(arch, variant, again):
    """The first of each block and those of the shortcuts; of the second nothing but its input is read."""
    for model, expected in zip(pair(arch, variant), (0, again), strict=True):
        with Ops() as forward:
            loss = loss_of(model(images()))
        with Ops() as backward:
            loss.backward()
        assert forward.counts[CONVOLUTION] == backward.counts["aten.convolution_backward.default"]
        assert backward.counts[CONVOLUTION] == expected
        assert not any("foreach" in name or "update_running" in name for name in backward.counts)


@pytest.mark.parametrize(
    ("backend", "arch", "variant", "times"),
    [
        pytest.param("native", "prn18", "released", 3.5, marks=needs_native),
        pytest.param("native", "prn18", "common", 3.5, marks=needs_native),
        pytest.param("native", "wrn-28-1", "released", 4.1, marks=needs_native),
        pytest.param("native", "wrn-28-1", "common", 3.6, marks=needs_native),
        ("reference", "prn18", "released", 1.75),  # its ReLU keeps its result besides
    ],
)
def test_bytes_that_wait_for_the_backward(backend, arch, variant, times, monkeypatch):
    monkeypatch.setenv("FASTISEAT_KERNELS", backend)
    model, sizes = build(arch, variant=variant), []
    for model.checkpoint_blocks in (False, True):
        with Ops() as ops:
            logits = model(torch.rand(2, 3, 32, 32))
        sizes.append(ops.bytes_alive(model))
        assert logits.requires_grad
    assert sizes[0] >= times * sizes[1]


def test_nothing_waits_after_the_backward():
    _, model = pair()
    with Ops() as ops:
        x = images()
        (gradient,) = torch.autograd.grad(loss_of(model(x)), x)
    left = x.untyped_storage().nbytes() + gradient.untyped_storage().nbytes()
    assert ops.bytes_alive(model) <= left + 5000, "the loss and the statistics' first batch alone"


def hook_block(block, calls):
    block.register_forward_hook(lambda *_: calls.append("block"))


def hook_layer(block, calls):
    block.conv1.register_forward_pre_hook(lambda *_: calls.append("layer"))


def hook_norm(block, calls):
    block.bn1.register_full_backward_hook(lambda *_: calls.append("norm"))


@pytest.mark.parametrize("add", [hook_block, hook_layer, hook_norm])
def test_hooks_run_once(add):
    results, calls = [], []
    for model in pair():
        add(model.layer2[0], calls)
        results.append(result(model, images()))
    assert_same(*results)
    assert len(calls) == 2


def test_a_stages_hook_and_a_hook_on_every_module():
    _, model = pair()
    calls = []
    model.layer1.register_forward_hook(lambda *_: calls.append("stage"))
    result(model, images())
    assert calls == ["stage"]
    with nn.modules.module.register_module_forward_hook(lambda module, *_: calls.append(module)):
        result(model, images())
    assert Counter(calls) == Counter(["stage", *model.modules(), "stage"])


def test_other_layers_than_a_block_is_built_with():
    results = []
    for model in pair():
        torch.manual_seed(4)
        block = model.layer2[0]
        block.conv1 = nn.Sequential(block.conv1, nn.Dropout(0.5))
        block = model.layer1[0]
        block.conv2 = nn.Conv2d(16, 16, 3, padding=1, dtype=torch.float64)
        model.layer3.append(nn.Identity())
        results.append(result(model, images()))
    assert_same(*results)


def test_the_attribute_is_no_state():
    _, model = pair()
    assert not build("small").checkpoint_blocks
    assert model.state_dict().keys() == build("wrn-10-1", num_classes=5).state_dict().keys()
    assert copy.deepcopy(model).checkpoint_blocks
    assert pickle.loads(pickle.dumps(model)).checkpoint_blocks
    model.load_state_dict(model.state_dict())
    assert model.checkpoint_blocks
    assert model.spec == pair()[0].spec


def test_half_precision_without_autocast_stays_open_to_it():
    _, model = pair(dtype=torch.float32)
    assert needs_no_autocast(model)


@in_both_modes
def test_within_a_module_that_is_fused(training):
    class Around(nn.Module):
        def __init__(self, network: Network):
            super().__init__()
            self.network, self.norm = network, nn.BatchNorm1d(5, dtype=torch.float64)

        def forward(self, x):
            return torch.relu(self.norm(self.network(x)))

    plain, checkpointed = (Around(model).train(training) for model in pair(training=training))
    assert_same(result(fuse(checkpointed), images()), result(plain, images()))


@pytest.mark.filterwarnings("ignore")
@on_both_variants
def test_a_compiler_sees_one_graph(variant):
    plain, checkpointed = pair("small", variant)
    torch.compiler.reset()
    compiled = torch.compile(checkpointed, backend="aot_eager", fullgraph=True)
    x, weights = images(), [*checkpointed.parameters()]
    logits = compiled(x)
    gradients = torch.autograd.grad(loss_of(logits), [x, *weights])
    expected = result(plain, images())
    torch.testing.assert_close([logits.detach(), *gradients, *checkpointed.buffers()], expected)
    torch.compiler.reset()
