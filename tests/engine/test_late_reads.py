"""What reads the module in the backward reads the weights, buffers and random numbers of its own pass."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from late_readers import LATE, Net, checkpointed, directly, layers, pair
from side_by_side import compiles
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from fastiseat import AT, AWP, ISEAT, PGD, SGD, Method, Standard, TrainStep, UserError, evaluate, models
from fastiseat.engine.passes import Passes
from fastiseat.methods import Outputs, from_config
from fastiseat.pipelines.protocol.augmentation import Augmentation
from fastiseat.recipes import METHODS, recipe


def images(seed: int = 0, m: int = 4) -> dict[str, Tensor]:
    """uint8 with their places, which every method takes."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "images": torch.randint(256, (m, 6, 6, 3), dtype=torch.uint8, generator=generator),
        "labels": torch.randint(5, (m,), generator=generator),
        "index": torch.arange(m),
    }


def parts_of(name: str) -> dict[str, Any]:
    """A method with its recipe's attack, and ν where it has one or may have."""
    config = recipe("cifar10", name)
    torch.manual_seed(1)
    method = from_config(config.objective, standard=Net(layers(), directly).double())
    gamma = 0.0 if METHODS[name].awp is None else 0.1
    return {
        "method": method,
        "attack": replace(config.attack, steps=2),
        "awp": AWP(gamma=gamma),
        "augmentation": Augmentation(pad=1, flip=True),
    }


ISEAT_PARTS = {"method": ISEAT(lam=0.5), "attack": PGD(steps=3), "awp": AWP(gamma=0.1)}


def trained(net: nn.Module, steps: int = 2, engine: str = "eager", **parts: Any) -> dict[str, Tensor]:
    step = TrainStep(net, engine=engine, optimizer=SGD(lr=0.1), **(ISEAT_PARTS | parts))
    for n in range(steps):
        step(**images(n))
    return net.state_dict()


def assert_alike(late: dict[str, Tensor], early: dict[str, Tensor]) -> None:
    for name, expected in early.items():
        torch.testing.assert_close(late[name], expected, rtol=1e-10, atol=1e-13, msg=name)


# All of them with ISEAT, one with every method; the whole table in the long form.
PAIRS = [
    pytest.param(reader, method, marks=() if method == "iseat" or reader == "batch norm" else pytest.mark.long)
    for reader in LATE
    for method in METHODS
]


@pytest.mark.parametrize(("reader", "method"), PAIRS)
def test_every_method_trains_a_late_reader_as_one_that_read_before(reader: str, method: str) -> None:
    parts = parts_of(method)
    late, early = (trained(net, **parts) for net in pair(reader))
    assert_alike(late, early)


# Its random numbers are drawn a second time, which a recording does not.
UNRECORDED = {"dropout": "drawn before", "weight_norm of old": "attributes", "spectral_norm of old": "attributes"}


@pytest.mark.parametrize("reader", LATE)
def test_on_the_tape(reader: str) -> None:
    late, early = pair(reader)
    if reader in UNRECORDED:
        before = copy.deepcopy(late.state_dict())
        with pytest.raises(UserError, match=f"cannot be recorded: .*{UNRECORDED[reader]}.*; take engine eager"):
            trained(late, engine="tape")
        assert all(torch.equal(tensor, before[name]) for name, tensor in late.state_dict().items())
        return
    assert_alike(trained(late, engine="tape"), trained(early))


@pytest.mark.parametrize("kind", ["exact", "half-batch", "last-attack-step", "previous-step"])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("clean_graph", ["keep", "recompute"])
@pytest.mark.parametrize(
    "reader",
    ["a buffer", *[pytest.param(other, marks=pytest.mark.long) for other in ("dropout", "spectral_norm")]],
)
def test_with_other_directions_modes_and_memory(reader: str, clean_graph: str, mode: str, kind: str) -> None:
    parts = {"attack": PGD(steps=2, bn_mode=mode), "awp": AWP(gamma=0.1, gradient=kind)}
    late, early = pair(reader)
    assert_alike(trained(late, clean_graph=clean_graph, **parts), trained(early, **parts))


@compiles
def test_compiled() -> None:
    late, early = pair("batch norm")
    step = TrainStep(late, engine="compile", optimizer=SGD(lr=0.1), **ISEAT_PARTS)
    step._passes.compile("aot_eager")
    step(**images())
    torch.compiler.reset()
    assert_alike(late.state_dict(), trained(early, 1))


def test_statistics_are_updated_eleven_times() -> None:
    late, _ = pair("batch norm")
    trained(late, 1, attack=PGD(steps=10))
    assert int(late.body[1].num_batches_tracked) == 11


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision(precision: str) -> None:
    found = [trained(net.float(), 1, precision=precision, awp=AWP(gamma=0.5)) for net in pair("checkpoint")]
    for name, expected in found[1].items():
        torch.testing.assert_close(found[0][name], expected, rtol=0, atol=1e-6, msg=name)


class Stages(nn.Module):
    """Blocks that are told to checkpoint from outside, by a flag, as networks of timm's are."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)])
        self.head, self.grad_checkpointing = nn.Linear(3, 5), False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing else block(x)
            x = x.relu()
        return self.head(x.mean((2, 3)))


def test_checkpointing_may_be_switched_on_between_steps() -> None:
    found = []
    for enable in (True, False):
        torch.manual_seed(2)
        net = Stages().double()
        step = TrainStep(net, **ISEAT_PARTS)
        step(**images(0))
        net.set_grad_checkpointing(enable)
        step(**images(1))
        found.append(net.state_dict())
    assert_alike(*found)


def test_hooks_around_the_step_of_a_network_of_ours() -> None:
    found = []
    for late in (True, False):
        torch.manual_seed(2)
        net = models.build("small", in_channels=3, num_classes=5).double()
        names = {}

        def pack(tensor: Tensor, net: nn.Module = net, names: dict[int, str] = names) -> Any:
            names.clear()
            names.update({id(weight): name for name, weight in net.named_parameters()})
            return names.get(id(tensor), tensor)

        def unpack(kept: Any, net: nn.Module = net) -> Tensor:
            return dict(net.named_parameters())[kept] if isinstance(kept, str) else kept

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack) if late else nullcontext():
            found.append(trained(net, 1))
    assert_alike(*found)


@dataclass(frozen=True, kw_only=True)
class Smooth(Method):
    """A method that differentiates logits by images: what its loss reads of the module, it reads late twice."""

    def objective(self, at: Outputs, labels: Tensor) -> dict[str, Tensor]:
        x = at.x.detach().requires_grad_()
        losses = torch.nn.functional.cross_entropy(at.perturbed(x), labels)
        (gradient,) = torch.autograd.grad(losses, x, create_graph=True)
        return {"adversarial": losses, "slope": gradient.square().sum()}


def test_a_method_may_differentiate_by_the_images() -> None:
    late, early = (trained(net, method=Smooth()) for net in pair("checkpoint"))
    assert_alike(late, early)


@pytest.mark.parametrize("reader", [reader for reader in LATE if reader != "save_on_cpu"])
def test_without_the_passs_state_each_would_be_wrong(reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Passes, "_again", lambda *_, **__: nullcontext())
    late, early = (trained(net) for net in pair(reader))
    with pytest.raises(AssertionError):
        assert_alike(late, early)


def reentrant(net: Net, x: Tensor) -> Tensor:
    return checkpoint(net.body, x, use_reentrant=True)


class Homemade(torch.autograd.Function):
    """Reentrant checkpointing as some libraries have it, which complain of nothing."""

    @staticmethod
    def forward(ctx: Any, body: nn.Module, x: Tensor) -> Tensor:
        ctx.body, ctx.x = body, x.detach()
        with torch.no_grad():
            return body(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor | None]:
        x = ctx.x.requires_grad_()
        with torch.enable_grad():
            ctx.body(x).backward(gradient)
        return None, x.grad


def homemade(net: Net, x: Tensor) -> Tensor:
    return Homemade.apply(net.body, x)


def swapped_out(net: Net, x: Tensor) -> Tensor:
    """Weights that are fetched from elsewhere into their data, as offloading does."""
    for weight, stored in zip(net.body.parameters(), net.store, strict=True):
        weight.data = stored
    return net.body(x)


def exchanged(net: Net, x: Tensor) -> Tensor:
    net.body[0].weight = nn.Parameter(net.body[0].weight.detach().clone())
    return net.body(x)


def overwritten(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        net.body[0].weight.mul_(0.5)
    return net.body(x)


def kept_in_a_list(net: Net, x: Tensor) -> Tensor:
    """A list of weights is read at θ wherever the module is."""
    return net.body[1:](F.conv2d(x, *net.kept, padding=1))


REFUSED = {
    "reentrant": (reentrant, "use_reentrant=False"),
    "a reentrant one of one's own": (homemade, "use_reentrant=False"),
    "data from elsewhere": (swapped_out, "replaces or overwrites its parameter body.0.weight"),
    "other parameters": (exchanged, "replaces or overwrites its parameter body.0.weight"),
    "overwritten": (overwritten, "replaces or overwrites its parameter body.0.weight"),
    "kept in a list": (kept_in_a_list, "reads its parameter body.0.weight past its module"),
}
WAYS = {
    "attacked": {},
    "at a given perturbation": {"delta": torch.zeros(4, 3, 6, 6, dtype=torch.float64)},
    "without attack": {},
}


# Without perturbed weights nothing is in the place of its own.
CASES = [(c, way) for c in REFUSED for way in WAYS if "reentrant" in c or way != "without attack"]


@pytest.mark.filterwarnings("ignore:None of the inputs:UserWarning")
@pytest.mark.parametrize(("case", "way"), CASES)
def test_what_cannot_be_made_right_is_refused_by_name(case: str, way: str) -> None:
    run, reason = REFUSED[case]
    net = Net(layers(), run).double()
    net.store = [weight.detach().clone() for weight in net.body.parameters()]
    net.kept = [net.body[0].weight, net.body[0].bias]
    method = Standard() if way == "without attack" else AT()
    gradients = {name: torch.ones_like(weight) for name, weight in net.named_parameters() if "head" in name}
    for name, gradient in gradients.items():
        net.get_parameter(name).grad = gradient
    parts = {"method": method, "attack": PGD(steps=1), "awp": AWP(gamma=0.0 if method == Standard() else 0.1)}
    with pytest.raises(UserError, match=reason):
        TrainStep(net, engine="eager", **parts)(
            images()["images"].permute(0, 3, 1, 2).contiguous().double() / 255, images()["labels"], **WAYS[way]
        )
    for name, weight in net.named_parameters():
        assert weight.grad is gradients.get(name)
    assert all(torch.equal(gradient, torch.ones_like(gradient)) for gradient in gradients.values())
    assert all(isinstance(weight, nn.Parameter) for weight in net.parameters())


@pytest.mark.parametrize("engine", ["eager", "tape"])
def test_weights_kept_in_a_list_are_read_right_or_refused(engine: str) -> None:
    direct, listed = (Net(layers(), run).double() for run in (directly, kept_in_a_list))
    listed.load_state_dict(direct.state_dict())
    listed.kept = [listed.body[0].weight, listed.body[0].bias]
    assert_alike(trained(listed, engine=engine, awp=AWP(gamma=0)), trained(direct, awp=AWP(gamma=0)))
    with pytest.raises(UserError, match=r"reads its parameter body\.0\.weight past its module"):
        trained(listed, engine=engine)


def test_cached_parametrizations_around_the_step_are_refused() -> None:
    late, _ = pair("parametrize")
    step = TrainStep(late, **ISEAT_PARTS)
    with parametrize.cached(), pytest.raises(UserError, match=r"parametrize.cached\(\) is on around the step"):
        step(**images())
    step(**images())


@pytest.mark.filterwarnings("ignore:None of the inputs:UserWarning")
def test_an_evaluation_refuses_reentrant_checkpointing_too() -> None:
    net = Net(layers(), reentrant).double()
    x = images()["images"].permute(0, 3, 1, 2).double() / 255
    with pytest.raises(UserError, match="use_reentrant=False"):
        evaluate(net, x, images()["labels"], ["pgd-2"], eps=0.1)
    net.run = checkpointed
    evaluate(net, x, images()["labels"], ["pgd-2"], eps=0.1)


@pytest.mark.parametrize("engine", ["eager", "tape"])
@pytest.mark.parametrize("gamma", [0.0, 0.1])
def test_hooks_on_parameters_see_the_gradient_of_the_whole_loss(gamma: float, engine: str) -> None:
    """A limit of each entry, which the passes' gradients do not keep one by one, and a mask."""
    _, net = pair("checkpoint")
    plain, start = copy.deepcopy(net), net.body[0].weight.detach().clone()
    net.mask = start > 0
    net.head.bias.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
    net.body[0].weight.register_hook(lambda gradient: gradient * net.mask)
    parts = {"method": ISEAT(lam=5.0), "attack": PGD(steps=2), "awp": AWP(gamma=gamma)}
    steps = [TrainStep(one, engine=engine, optimizer=SGD(weight_decay=0), **parts) for one in (net, plain)]
    for step in steps:
        step(**images())
    assert torch.equal(net.body[0].weight[start <= 0], start[start <= 0])
    assert not torch.equal(net.body[0].weight[start > 0], start[start > 0])
    found, whole = (step.momentum_buffers["head.bias"] for step in steps)
    assert gamma or torch.equal(found, whole.clamp(-0.01, 0.01))
    assert found.abs().max() <= 0.01 < whole.abs().max()
