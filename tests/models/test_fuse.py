"""A fused module computes what the user's own does, whatever its code; where it can't, it is the user's own."""

import copy
import logging
import pickle
import random

import pytest
import torch
import torch.nn.functional as F
from devices import DEVICES
from torch import nn
from torch.func import functional_call

from fastiseat.fusion import fuse as fuse_module
from fastiseat.fusion import norm, rewrite
from fastiseat.fusion.fuse import Fused, fuse


def conv(in_width=4, width=4):
    return nn.Conv2d(in_width, width, 3, padding=1, bias=False)


class Net(nn.Module):
    """Stem, ``body`` of the subclass, head."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = conv(3), nn.Linear(4, 5)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(4) for _ in range(3))
        self.conv1, self.conv2 = conv(), conv()
        self.relu = nn.ReLU()
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class PostActivation(Net):
    """The last ReLU follows a sum: two of three BatchNorms are fused."""

    def body(self, x):
        x = self.relu(self.bn1(x))
        out = F.relu(self.bn2(self.conv1(x)), inplace=True)
        out = self.bn3(self.conv2(out))
        out += x
        return self.relu(out)


class PreActivation(Net):
    """Sums of every spelling, each with another reader."""

    def body(self, x):
        x = x + self.conv1(self.bn1(x).relu())
        x = torch.add(x, self.conv2(torch.relu(self.bn2(x))))
        out = self.bn3(x).relu_()
        return x.add(out)


class SumInPlace(Net):
    def body(self, x):
        first = torch.relu(self.bn1(x))
        out = self.conv1(first)
        out += x  # to torch.fx an ordinary sum
        out = torch.relu(self.bn2(out)) + out
        return self.conv2(out)


class SumIntoAReadTensor(Net):
    """The sum stays, the BatchNorm behind it is fused."""

    def body(self, x):
        out = self.conv1(x)
        kept = out.view(-1)
        out.add_(x)
        return self.conv2(torch.relu(self.bn1(out))) + kept.view_as(out)


class WrittenBetween(Net):
    """The BatchNorm reads what has been done to the sum meanwhile."""

    def body(self, x):
        out = x + self.conv1(x)
        out.mul_(2)
        return self.relu(self.bn1(out)) + out


class Broadcast(Net):
    def body(self, x):
        return self.relu(self.bn1(x + self.conv1(x).mean((2, 3), keepdim=True)))


class SharedNorm(Net):
    """bn1 comes twice, and statistics of bn2 and bn3 are the same tensors: none of them is fused."""

    def __init__(self):
        super().__init__()
        self.double()
        self.bn3.running_mean, self.bn3.running_var = self.bn2.running_mean, self.bn2.running_var
        self.bn4 = nn.BatchNorm2d(4)

    def body(self, x):
        x = self.relu(self.bn1(self.conv1(self.relu(self.bn1(x)))))
        return self.relu(self.bn4(self.relu(self.bn3(self.relu(self.bn2(x))))))


class Others(Net):
    """Two readers, no ReLU, another ReLU's relative, no weights, no statistics, no momentum: one is left."""

    def __init__(self):
        super().__init__()
        self.bare = nn.BatchNorm2d(4, affine=False)
        self.anew = nn.BatchNorm2d(4, track_running_stats=False)
        self.mean = nn.BatchNorm2d(4, momentum=None)
        self.good = nn.BatchNorm2d(4, momentum=0.3, eps=0.01)

    def body(self, x):
        out = self.bn1(x)
        x = self.relu(out) + out
        x = F.leaky_relu(self.bn3(self.bn2(x)))
        x = self.relu(self.mean(self.relu(self.anew(self.relu(self.bare(x))))))
        return self.relu(self.good(x))


class Dropping(Net):
    def body(self, x):
        x = self.drop(self.relu(self.bn1(x)))
        x = F.dropout(self.relu(self.bn2(self.conv1(x))), 0.4, training=self.training)
        return self.relu(self.bn3(x)) if self.training else self.bn3(x).relu() * 2


class Unlookable(nn.Module):
    """Code that only a leaf may have."""

    calls = 0

    def forward(self, x):
        self.calls = self.calls + 1
        return x * 2 if x.sum() > 0 else x + torch.rand(1).to(x)


class Plus(nn.Module):
    def forward(self, a, b):
        return a + 2 * b


class NamedLikeOps(Net):
    def __init__(self):
        super().__init__()
        self.add = Plus()

    def body(self, x):
        return self.relu(self.bn1(self.add(x, self.conv1(x))))


class Leaf(Net):
    def __init__(self):
        super().__init__()
        self.leaf = Unlookable()

    def body(self, x):
        return self.leaf(self.relu(self.bn1(x)))


class Buffers(Net):
    """Parameters and buffers in the code itself, one of them a BatchNorm's statistics."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("shift", torch.tensor(0.5))

    def body(self, x):
        x = self.relu(self.bn1(x * self.scale + self.shift))
        x = self.relu(self.bn2(x)) * self.bn2.weight.sum()
        return self.relu(self.bn3(x)) + self.bn3.running_mean.view(1, -1, 1, 1)


def sequential():
    return nn.Sequential(
        conv(3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Flatten(), nn.Linear(4 * 64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 5),
    )  # fmt: skip


# The module, how many of its BatchNorms are fused, and how many of these with the sum before them.
MODELS = {
    "post-activation": (PostActivation, 2, 0),
    "pre-activation": (PreActivation, 3, 2),
    "a sum in place": (SumInPlace, 2, 1),
    "a sum into a read tensor": (SumIntoAReadTensor, 1, 0),
    "written between": (WrittenBetween, 1, 0),
    "broadcast": (Broadcast, 1, 1),
    "shared": (SharedNorm, 1, 0),
    "others": (Others, 1, 0),
    "dropout": (Dropping, 3, 0),
    "named like an op": (NamedLikeOps, 1, 0),
    "leaf": (Leaf, 1, 0),
    "buffers": (Buffers, 2, 0),
    "sequential": (sequential, 3, 0),
}


def images(m=6, dtype=torch.float64, seed=0):
    return torch.rand(m, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pair(build):
    model = build().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return fuse(model), copy.deepcopy(model)


def step(model, x, seed=0):
    """Output and gradients, from the same random numbers each time."""
    torch.manual_seed(seed)
    x = x.clone().requires_grad_()
    output = model(x)
    leaves = [x, *model.parameters()]
    gradients = torch.autograd.grad(output.square().sum(), leaves, allow_unused=True, materialize_grads=True)
    return [output, *gradients, torch.get_rng_state().double()]


def assert_same(fused, model, x, seed=0):
    # Bits, as sums are taken in the same order: the reference is PyTorch's own BatchNorm.
    torch.testing.assert_close(step(fused, x, seed), step(model, x, seed), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(fused.state_dict(), model.state_dict(), rtol=1e-12, atol=1e-12)


@pytest.fixture
def calls(monkeypatch):
    """The ``b`` of each fused BatchNorm that runs in the graph, in order."""
    found = []

    def counted(bn, a, b=None):
        found.append(b)
        return norm.norm_relu(bn, a, b)

    monkeypatch.setattr(rewrite, "norm_relu", counted)
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODELS)
def test_outputs_gradients_and_buffers_are_the_modules_own(name, device):
    fused, model = (module.to(device) for module in pair(MODELS[name][0]))
    assert isinstance(fused, Fused)
    for seed, training in enumerate([True, True, False, True]):
        fused.train(training)
        model.train(training)
        assert_same(fused, model, images(seed=seed).to(device), seed)
    assert all(fused._runs.values()), "each mode has a graph"


@pytest.mark.parametrize("name", MODELS)
def test_what_can_be_is_fused(name, calls):
    build, norms, sums = MODELS[name]
    fused, _ = pair(build)
    fused(images())
    calls.clear()
    fused(images())
    folded = sum(b is not None for b in calls)
    assert (len(calls), folded) == (norms, sums if name != "broadcast" else 0)


def test_half_precision_addends_of_two_dtypes_are_added_as_ever():
    class Mixed(Net):
        def body(self, x):
            return self.relu(self.bn1(self.conv1(x) + x.double().float()))

    fused, model = fuse(Mixed()), None
    model = copy.deepcopy(fused.model)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            torch.testing.assert_close(fused(images(dtype=torch.float32)), model(images(dtype=torch.float32)))


def test_statistics_are_written_once_at_the_end(monkeypatch):
    fused, _ = pair(PreActivation)
    fused(images())
    written = []
    monkeypatch.setattr(norm, "update_running_stats", lambda *args, **_: written.append(len(args[0])))
    fused(images())
    assert written == [3]


def test_only_names_and_tensors_of_the_module_exist():
    fused, _ = pair(PostActivation)
    model = fused.model
    assert dict(fused.named_parameters()).keys() == dict(model.named_parameters()).keys()
    assert [name for name, _ in fused.named_modules()] == [name for name, _ in model.named_modules()]
    assert all(
        tensor is model.state_dict(keep_vars=True)[k] for k, tensor in fused.state_dict(keep_vars=True).items()
    )


def test_functional_call_swaps_weights_and_buffers():
    fused, model = pair(PreActivation)
    weights = {name: torch.randn_like(w).requires_grad_() for name, w in model.named_parameters()}
    clones = [{name: b.clone() for name, b in model.named_buffers()} for _ in range(2)]
    before = copy.deepcopy(fused.state_dict())
    found, expected = (
        functional_call(module, weights | buffers, (images(),))
        for module, buffers in zip((fused, model), clones, strict=True)
    )
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(out.sum(), list(weights.values())) for out in (found, expected))
    torch.testing.assert_close(*map(list, gradients))
    torch.testing.assert_close(*clones)
    assert all(torch.equal(tensor, before[name]) for name, tensor in fused.state_dict().items())


def test_the_module_may_be_converted_and_loaded_later_on():
    """``.to()`` puts other buffers into the module; the fused one finds them."""
    fused, model = pair(PostActivation)
    fused(images())
    model(images())
    for module in (fused.model, model):
        module.float()
    torch.testing.assert_close(fused(images(dtype=torch.float32)), model(images(dtype=torch.float32)))
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    for module in (fused.model, model):
        module.load_state_dict(state)
        module.double()
    assert_same(fused, model, images())
    fused.float()
    assert {weight.dtype for weight in fused.model.parameters()} == {torch.float32}


def test_a_copy_is_of_its_own():
    fused, _ = pair(PostActivation)
    fused(images())
    before = copy.deepcopy(fused.state_dict())
    twin = copy.deepcopy(fused)
    twin(images())
    assert all(torch.equal(tensor, before[name]) for name, tensor in fused.state_dict().items())
    assert not torch.equal(twin.state_dict()["bn1.running_mean"], before["bn1.running_mean"])
    assert twin.state_dict()["bn1.running_mean"] is not twin.model.bn1.running_mean
    assert twin._modules is twin.model._modules


@pytest.mark.parametrize("way", [copy.deepcopy, lambda fused: pickle.loads(pickle.dumps(fused))])
def test_a_copy_is_fused_too(way):
    fused, _ = pair(PostActivation)
    fused(images())
    twin = way(fused)
    assert torch.equal(twin(images(seed=1)), fused(images(seed=1)))
    assert all(twin._runs.values())
    assert all(map(torch.equal, twin.state_dict().values(), fused.state_dict().values()))


def test_nothing_is_learned_in_a_backward():
    # Of a GPU's it is another thread, which would wait for the turn of the one that waits for it.
    fused, _ = pair(PostActivation)
    x = images().requires_grad_()
    outputs = []
    x.register_hook(lambda gradient: outputs.append(fused(images())))
    (2 * x).sum().backward()
    assert len(outputs) == 1
    assert not fused._runs


def test_flags_of_single_submodules_count():
    fused, model = pair(Dropping)
    for module in (fused.model, model):
        module.bn2.eval()
        module.drop.eval()
    for seed in range(2):
        assert_same(fused, model, images(seed=seed), seed)
    assert int(fused.model.bn2.num_batches_tracked) == 0


def test_train_is_the_modules_own():
    class Frozen(PostActivation):
        def train(self, mode=True):
            super().train(mode)
            self.bn1.eval()
            return self

    fused, _ = pair(Frozen)
    fused.train()
    assert (fused.training, fused.model.training, fused.model.bn1.training) == (True, True, False)


def test_attributes_that_the_code_reads_may_change(calls):
    class Gated(Net):
        gate, parts = 1.0, ()

        def __init__(self):
            super().__init__()
            self.gate, self.parts = 1.0, [1.0, 2.0]

        def body(self, x):
            x = self.relu(self.bn1(x)) * self.parts[1]
            return x * self.gate if self.gate else x

    fused, model = pair(Gated)
    for gate in (1.0, 0.5, 0.0):
        for module in (fused.model, model):
            module.gate, module.parts[1] = gate, gate + 1
        assert_same(fused, model, images())
    for gate in range(20):
        fused.model.gate = model.gate = gate / 7
        assert_same(fused, model, images())
    assert len(fused._runs) == fuse_module._MOST_GRAPHS


def test_attributes_that_come_later_may_change_too(calls):
    class Late(Net):
        def body(self, x):
            x = self.relu(self.bn1(x))
            return x * vars(self).get("late", 1.0)

    fused, model = pair(Late)
    assert_same(fused, model, images())
    for late in (0.5, 0.25):
        fused.model.late = model.late = late
        assert_same(fused, model, images())


def test_code_may_ask_whether_gradients_are_on(calls):
    class Asking(Net):
        def body(self, x):
            x = self.relu(self.bn1(x))
            return x if torch.is_grad_enabled() else 2 * x

    fused, model = pair(Asking)
    with torch.no_grad():
        torch.testing.assert_close(fused(images()), model(images()))
    assert_same(fused, model, images())


def test_hooks_run_whenever_they_come(calls):
    def build():
        model = PostActivation()
        model.bn1.register_forward_hook(lambda module, args, out: out * 2)
        return model

    fused, model = pair(build)
    for _ in range(2):
        assert_same(fused, model, images())
    assert calls, "the other BatchNorm is fused"
    for path in ("bn2", "relu", ""):
        handles = [
            m.get_submodule(path).register_forward_hook(lambda *args: args[2] * 3) for m in (fused.model, model)
        ]
        assert_same(fused, model, images())
        for handle in handles:
            handle.remove()
    seen = []
    with torch.nn.modules.module.register_module_forward_hook(lambda *args: seen.append(args[0])):
        fused(images())
    assert fused.model.bn2 in seen


def test_a_replaced_submodule_is_called():
    fused, model = pair(PostActivation)
    assert_same(fused, model, images())
    for module in (fused.model, model):
        module.relu, module.bn2 = nn.SiLU(), nn.GroupNorm(2, 4).double()
    assert_same(fused, model, images())


def test_the_first_pass_leaves_no_trace_but_its_own():
    fused, model = pair(Leaf)
    numbers, python = torch.get_rng_state(), random.getstate()
    fused.eval()(images())
    fused.train()(images())
    model(images())
    torch.testing.assert_close(fused.state_dict(), model.state_dict())
    assert fused.model.leaf.calls == 2
    assert torch.equal(torch.get_rng_state(), numbers)
    assert random.getstate() == python


def test_an_error_of_the_modules_own_is_raised_and_forgotten():
    fused, model = pair(PostActivation)
    with pytest.raises(RuntimeError, match="channels"):
        fused(torch.rand(2, 5, 8, 8, dtype=torch.float64))
    assert norm._THREAD.batches is None
    assert_same(fused, model, images())
    assert all(fused._runs.values())


def test_other_calls_are_the_modules_own(calls):
    fused, model = pair(PostActivation)
    torch.testing.assert_close(fused(x=images()), model(images()))
    assert not calls
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(fused, backend="eager")(images()), model(images()))
    torch.compiler.reset()
    assert not calls


class DataDependent(Net):
    def body(self, x):
        return self.relu(self.bn1(x)) if x.mean() > 0 else self.bn1(x)


class OwnTensor(Net):
    def body(self, x):
        return self.relu(self.bn1(x)) + torch.ones(1)


class OwnNumbers(Net):
    def body(self, x):
        return self.relu(self.bn1(x)) if torch.rand(()) > 0.5 else self.relu(x)


class PythonNumbers(Net):
    def body(self, x):
        return self.relu(self.bn1(x)) if random.random() < 2 else x


class Counting(Net):
    calls = 0

    def body(self, x):
        self.calls = self.calls + 1
        return self.relu(self.bn1(x))


class Collecting(Net):
    def __init__(self):
        super().__init__()
        self.seen = []

    def body(self, x):
        self.seen.append(x)
        return self.relu(self.bn1(x))


class WithoutGradient(Net):
    def body(self, x):
        with torch.no_grad():
            x = self.conv1(x)
        return self.relu(self.bn1(x))


class WithoutAutocast(Net):
    def body(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.relu(self.bn1(x))


class TwoInputs(Net):
    def forward(self, x, mask=None):
        return self.head(self.relu(self.bn1(self.stem(x))).mean((2, 3)) if mask is None else mask)


class NoNorm(Net):
    def body(self, x):
        return self.relu(self.conv1(x))


class Hooked(PostActivation):
    def __init__(self):
        super().__init__()
        self.register_forward_hook(lambda *args: None)


REFUSED = {
    DataDependent: "control flow",
    OwnTensor: "on tensors of its own",
    OwnNumbers: "on tensors of its own",
    PythonNumbers: "Python's random numbers",
    Counting: "writes attributes",
    Collecting: "writes attributes",
    WithoutGradient: "gradients or autocast",
    WithoutAutocast: "gradients or autocast",
    TwoInputs: "other arguments than images",
    NoNorm: "no plain BatchNorm",
    Hooked: "hooks",
}


@pytest.mark.parametrize("build", REFUSED)
def test_what_a_graph_would_get_wrong_stays_the_module_itself(build, caplog):
    model = build()
    attributes = {name: copy.copy(value) for name, value in vars(model).items()}
    state = random.getstate()
    with caplog.at_level(logging.INFO):
        assert fuse(model) is model
    (line,) = [record.getMessage() for record in caplog.records if record.name == fuse_module.__name__]
    assert line.startswith(f"{build.__name__} is not fused: ")
    assert REFUSED[build] in line
    assert "\n" not in line
    assert vars(model) == attributes
    assert random.getstate() == state


class TypeDependent(Net):
    """torch.fx follows the wrong branch: its stand-in is no tensor."""

    def body(self, x):
        return self.relu(self.bn1(x)) * (1 if isinstance(x, torch.Tensor) else 2)


class ViewOfASum(Net):
    """torch.fx takes the sum that ``+=`` stands for into another tensor."""

    def body(self, x):
        out = self.conv1(x)
        kept = out.view(-1)
        out += x
        return self.conv2(torch.relu(self.bn1(out))) + kept.view_as(out)


class TrainsAnotherWay(Net):
    def body(self, x):
        return self.relu(self.bn1(x * x.mean() if self.training and x.mean() > 0 else x))


class Several(Net):
    def forward(self, x):
        x = self.relu(self.bn1(self.stem(x)))
        return x, x


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (TypeDependent, "computes something else"),
        (ViewOfASum, "computes something else"),
        (TrainsAnotherWay, "control flow"),
        (Several, "returns a tuple"),
    ],
)
def test_what_shows_only_when_it_runs_is_the_modules_own_in_that_mode(build, reason, caplog):
    model = build().double().eval()
    fused, twin = fuse(model), copy.deepcopy(model)
    with caplog.at_level(logging.INFO):
        for module in (fused, twin):
            module.train()
        for _ in range(2):
            torch.testing.assert_close(fused(images()), twin(images()))
    torch.testing.assert_close(fused.state_dict(), twin.state_dict())
    assert reason in caplog.text
    assert caplog.text.count("runs as it is") == 1
