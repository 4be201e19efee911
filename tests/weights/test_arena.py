"""The arena: one buffer for all parameters, and nobody else notices."""

from __future__ import annotations

import copy
import io

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from devices import DEVICES
from oracles.by_tensor import sgd_step, weight_perturbation
from torch import Tensor, nn

from fastiseat.checkpoint import RunDirectory
from fastiseat.checkpoint.fileformat import encode, unpickle
from fastiseat.checkpoint.snapshot import Snapshot
from fastiseat.errors import UserError
from fastiseat.kernels import sgd, weight_perturb
from fastiseat.models import build, export_state_dict
from fastiseat.weights import Arena, full_precision_names, perturbable


class Net(nn.Module):
    """Everything that an arena meets: tied and frozen weights, a norm, a head, an empty and a scalar parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 20, 3, padding=1)
        self.norm = nn.BatchNorm2d(20)
        self.point = nn.Conv2d(20, 4, 1)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.nothing = nn.Parameter(torch.zeros(0, 3))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.point(self.norm(self.conv(x)).relu()).mean((2, 3)) * self.scale
        return self.head(self.frozen(self.second(self.first(x))))


HEADS = {"norm.weight", "norm.bias", "head.weight", "head.bias"}


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def adopt(model: nn.Module, **settings) -> Arena:
    return Arena(trainable(model), full_precision=full_precision_names(model), **settings)


@pytest.fixture(params=DEVICES)
def net(request) -> Net:
    return Net().to(request.param)


def images(net: Net, count: int) -> Tensor:
    return torch.randn(count, 3, 6, 6).to(net.conv.weight)


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name].cpu(), tensor.cpu()), name


def in_arena(arena: Arena, model: nn.Module) -> bool:
    """Whether what is written into the buffer is seen in the parameters."""
    arena.weights.fill_(7)
    return all((weight == 7).all() for weight in trainable(model).values())


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_move_in_unchanged(net, dtype, channels_last):
    net.to(dtype)
    x = images(net, 5)
    logits = net(x)
    before = values(net)
    arena = adopt(net, channels_last=channels_last)
    assert_equal(values(net), before)
    torch.testing.assert_close(net(x), logits)
    assert arena.weights.dtype == dtype
    assert net.conv.weight.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert net.second.weight is net.first.weight
    assert arena.adopted(trainable(net))
    assert in_arena(arena, net)
    assert "frozen.weight" not in arena.names


def test_channels_last_weights_keep_their_strides(net):
    net.to(memory_format=torch.channels_last)
    adopt(net)
    assert net.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_weight_that_is_spread_out_in_memory_is_packed(net):
    net.head.weight.data = torch.randn(3, 8).to(net.head.weight)[:, ::2]
    before = net.head.weight.clone()
    adopt(net)
    assert torch.equal(net.head.weight, before)
    assert net.head.weight.is_contiguous()


def test_the_table(net):
    arena = adopt(net)
    assert set(arena.names[-len(HEADS) :]) == HEADS
    assert arena.segments.num_elements == len(arena.weights)
    assert arena.segments.perturbed.tolist() == [trainable(net)[name].dim() > 1 for name in arena.names]
    out, rest = arena.split("perturbed", torch.bfloat16)
    assert (out.dtype, rest.dtype, len(rest)) == (torch.bfloat16, torch.float32, 1024 * len(HEADS))
    assert len(out) + len(rest) == len(arena.weights)
    assert full_precision_names(nn.Conv2d(1, 1, 1)) == set()


def test_shadow(net):
    arena = adopt(net)
    first = arena.shadow(torch.bfloat16)
    shadow = arena.views("shadow")
    for name, weight in trainable(net).items():
        assert shadow[name].dtype == (torch.float32 if name in HEADS else torch.bfloat16)
        assert shadow[name].stride() == weight.stride()
        assert torch.equal(shadow[name].float(), weight if name in HEADS else weight.bfloat16().float())
    arena.weights.fill_(3)
    assert arena.shadow(torch.bfloat16) is first
    assert all((view == 3).all() for view in shadow.values())


def test_gather(net):
    arena = adopt(net, channels_last=True)
    buffer = arena.flat("grad", torch.bfloat16)
    gradients = {name: torch.randn_like(weight) for name, weight in trainable(net).items()}
    active = arena.gather(gradients, "grad")
    assert active.all()
    assert_equal(arena.views("grad"), {name: gradients[name].bfloat16() for name in arena.names})
    without = gradients | {"scale": None}
    del without["conv.weight"]
    some = arena.gather(without, "grad")
    assert [name for name, has in zip(arena.names, some.tolist(), strict=True) if not has] == [
        "scale",
        "conv.weight",
    ]
    assert not arena.views("grad")["conv.weight"].any()
    assert buffer.count_nonzero() == sum(
        g.count_nonzero() for name, g in without.items() if g is not None and name != "conv.weight"
    )
    assert arena.gather(without, "grad") is some
    assert arena.gather(gradients, "grad") is active
    assert not arena.gather({}, "grad").any()
    assert not buffer.any()
    with pytest.raises(UserError, match=r"gradients of frozen.weight: the arena holds no such"):
        arena.gather({"frozen.weight": torch.zeros(4, 4)}, "grad")


def test_a_step_is_that_of_the_dictionaries(net):
    """One ISEAT update by the arena and the ops, in float64, against the functions on dictionaries."""
    net.double()
    twin = copy.deepcopy(net)
    arena, other = adopt(net, channels_last=True), trainable(twin)
    momentum: dict[str, Tensor] = {}
    x = images(net, 6)
    y = torch.tensor([0, 1, 2, 0, 1, 2], device=x.device)

    def gradients(weights, loss):
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        return {name: g for name, g in zip(weights, found, strict=True) if g is not None}

    for _ in range(3):
        call = torch.func.functional_call
        weights = trainable(net)
        arena.gather(gradients(weights, F.cross_entropy(net(x), y)), "perturbation_grad")
        out, rest = arena.split("perturbed", torch.float64)
        ratio = weight_perturb(
            arena.weights, arena.flat("perturbation_grad"), arena.segments, gamma=0.1, out=out, out_full=rest
        )
        theta_nu = {name: view.detach().requires_grad_() for name, view in arena.views("perturbed").items()}
        active = arena.gather(gradients(theta_nu, F.cross_entropy(call(net, theta_nu, x), y)), "grad")
        arena.gather(gradients(weights, net(x).square().mean()), "second_grad")
        sgd(
            arena.weights,
            arena.flat("momentum"),
            arena.flat("grad"),
            arena.segments,
            second_grad=arena.flat("second_grad"),
            perturbation_grad=arena.flat("perturbation_grad"),
            ratio=ratio,
            active=active,
            **(settings := {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
        )

        movable = perturbable(other)
        nu = weight_perturbation(
            movable, gradients(movable, F.cross_entropy(twin(x), y)), gamma=0.1, norm="tensor"
        )
        perturbed = {name: w + nu[name] if name in nu else w for name, w in other.items()}
        loss = F.cross_entropy(call(twin, perturbed, x), y) + twin(x).square().mean()
        sgd_step(other, perturbed, gradients(other, loss), momentum, **settings)

    for name, weight in trainable(net).items():
        torch.testing.assert_close(weight, other[name], rtol=1e-9, atol=1e-12)
        if name in momentum:
            torch.testing.assert_close(arena.views("momentum")[name], momentum[name], rtol=1e-9, atol=1e-12)
    assert torch.equal(net.frozen.weight, twin.frozen.weight)


def test_zero_grad_and_backward_leave_the_arena_alone(net):
    arena = adopt(net)
    net(images(net, 4)).sum().backward()
    net.zero_grad()
    assert not arena.refresh(trainable(net))
    assert in_arena(arena, net)


def test_load_state_dict(net):
    arena, other = adopt(net), Net()
    net.load_state_dict(other.state_dict())
    assert arena.adopted(trainable(net))
    assert_equal(values(net), values(other))


def untied(net: Net) -> None:
    net.load_state_dict({name: tensor + 1 for name, tensor in net.state_dict().items()}, assign=True)


def assigned(net: Net) -> None:
    untied(net)
    net.second.weight = net.first.weight


def replaced(net: Net) -> None:
    net.head.weight.data = torch.full_like(net.head.weight, 5.0)


def swapped(net: Net) -> None:
    """Each in the other's place."""
    net.first.bias.data, net.second.bias.data = net.second.bias.data, net.first.bias.data


def there_and_back(net: Net) -> None:
    net.double().float()


def rearranged(net: Net) -> None:
    net.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("leave", [assigned, replaced, swapped, there_and_back, rearranged])
def test_what_left_is_taken_in_again(net, leave):
    arena = adopt(net)
    arena.flat("momentum").fill_(2)
    address = arena.weights.data_ptr()
    leave(net)
    before = values(net)
    assert not arena.adopted(trainable(net))
    assert not arena.refresh(trainable(net))
    assert arena.adopted(trainable(net))
    assert arena.weights.data_ptr() == address
    assert_equal(values(net), before)
    assert (arena.views("momentum")["conv.weight"] == 2).all()
    assert in_arena(arena, net)


def other_dtype(net: Net) -> None:
    net.double()


def frozen(net: Net) -> None:
    net.scale.requires_grad_(False)


def unfrozen(net: Net) -> None:
    net.frozen.requires_grad_()


def other_head(net: Net) -> None:
    net.head = nn.Linear(4, 9).to(net.conv.weight)


@pytest.mark.parametrize("change", [other_dtype, frozen, unfrozen, untied, other_head])
def test_another_set_of_parameters_gets_new_buffers(net, change):
    arena = adopt(net)
    arena.flat("grad")
    change(net)
    before = values(net)
    assert arena.refresh(trainable(net))
    assert_equal(values(net), before)
    assert trainable(net).keys() == arena.views("weights").keys()
    assert len(arena.flat("grad")) == len(arena.weights)
    assert in_arena(arena, net)


def test_a_copy_of_the_module_works_alone(net):
    arena = adopt(net)
    twin = copy.deepcopy(net)
    before = values(twin)
    arena.weights.fill_(9)
    assert_equal(values(twin), before)
    assert not arena.adopted(trainable(twin))
    assert in_arena(adopt(twin), twin)
    assert (arena.weights == 9).all()


def test_a_copy_of_both(net):
    arena = adopt(net)
    arena.flat("momentum").fill_(4)
    both = copy.deepcopy({"net": net, "arena": arena})
    before = values(net)
    assert not both["arena"].refresh(trainable(both["net"]))
    assert in_arena(both["arena"], both["net"])
    assert (both["arena"].views("momentum")["conv.weight"] == 4).all()
    assert_equal(values(net), before)


def size(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def test_files_hold_each_tensor_alone(net, tmp_path):
    adopt(net)
    state = net.state_dict()
    file = io.BytesIO()
    torch.save(state, file)
    # Zip entries of torch.save are aligned and named: under 1 KB each.
    assert len(file.getvalue()) < size(state) + 1024 * len(state)
    file.seek(0)
    assert_equal(torch.load(file, weights_only=True), values(net))
    single = io.BytesIO()
    torch.save(net.head.bias, single)
    assert len(single.getvalue()) < 3000
    tied = {name: tensor for name, tensor in state.items() if name != "second.weight"}
    safetensors.torch.save_file(tied, tmp_path / "weights.safetensors")
    assert (tmp_path / "weights.safetensors").stat().st_size < size(tied) + 4096
    assert_equal(safetensors.torch.load_file(tmp_path / "weights.safetensors"), tied)
    safetensors.torch.save_model(net, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_size < size(tied) + 4096


def test_the_files_of_a_run(tmp_path):
    model = build("prn18")
    arena = adopt(model, channels_last=True)
    exported = export_state_dict(model)
    assert all(tensor.is_contiguous() for tensor in exported.values())
    RunDirectory(tmp_path).write_weights("last", model, {"dataset": "cifar10"})
    assert (tmp_path / "weights" / "last.safetensors").stat().st_size < size(exported) + 65_536
    state = {"model": model.state_dict(), "momentum": arena.alone(arena.flat("momentum"))}
    for kept in (state, Snapshot(state).wait()):
        _, payload = encode(kept, step=1)
        whole = size(state["model"]) + size(state["momentum"])
        assert len(payload) < whole + 1024 * (len(state["model"]) + len(state["momentum"]))
    assert_equal(unpickle(io.BytesIO(payload))["model"], values(model))


def test_padding_is_mended(net):
    arena = adopt(net)
    before = values(net)
    arena.weights.fill_(torch.nan)
    net.load_state_dict(before)
    arena.clear_padding()
    assert arena.weights.isfinite().all()
    assert_equal(values(net), before)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "no parameter to adopt; unfreeze one"),
        ({"a": nn.Parameter(torch.zeros(2).half())}, "parameters are torch.float16; convert the model"),
        (
            {"a": nn.Parameter(torch.zeros(2)), "b": nn.Parameter(torch.zeros(2).double())},
            "b is torch.float64 on cpu, others torch.float32 on cpu; move the model",
        ),
    ],
)
def test_what_cannot_be_adopted(weights, message):
    with pytest.raises(UserError, match=message):
        Arena(weights)
