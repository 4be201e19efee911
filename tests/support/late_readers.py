"""Modules whose code reads weights, buffers or random numbers in the backward, and those that have read them before."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

Run = Callable[["Net", Tensor], Tensor]


def layers(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *between, nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))


class Net(nn.Module):
    """A body, run in one of two ways, and a head."""

    def __init__(self, body: nn.Sequential, run: Run) -> None:
        super().__init__()
        self.body, self.run, self.head = body, run, nn.Linear(4, 5)
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(self, x).relu().mean((2, 3)))


def directly(net: Net, x: Tensor) -> Tensor:
    return net.body(x)


def checkpointed(net: Net, x: Tensor, **options: Any) -> Tensor:
    return checkpoint(net.body, x, use_reentrant=False, **options)


def without_early_stop(net: Net, x: Tensor) -> Tensor:
    return checkpointed(net, x, early_stop=False)


def in_segments(net: Net, x: Tensor) -> Tensor:
    return checkpoint_sequential(net.body, 2, x, use_reentrant=False)


def nested(net: Net, x: Tensor) -> Tensor:
    def outer(x: Tensor) -> Tensor:
        return checkpoint(net.body, x, use_reentrant=False)

    return checkpoint(outer, x, use_reentrant=False)


def by_name(net: Net, x: Tensor) -> Tensor:
    """Parameters are not kept, but fetched by their names."""
    names = {id(weight): name for name, weight in net.body.named_parameters()}

    def unpack(kept: Any) -> Tensor:
        return dict(net.body.named_parameters())[kept] if isinstance(kept, str) else kept

    with saved_tensors_hooks(lambda tensor: names.get(id(tensor), tensor), unpack):
        return net.body(x)


def offloaded(net: Net, x: Tensor) -> Tensor:
    with save_on_cpu():
        return net.body(x)


def late_factor(net: Net, x: Tensor) -> Tensor:
    """The gradient of the body's output by a number that is read from weights when it passes."""
    h = net.body(x)
    if h.requires_grad:
        h.register_hook(lambda gradient: gradient * (1 + net.head.weight.norm()))
    return h


def late_statistics(net: Net, x: Tensor) -> Tensor:
    h = net.body(x)
    if h.requires_grad:
        h.register_hook(lambda gradient: gradient * (1 + net.body[1].running_var.sum()))
    return h


class Scaled(Function):
    """The identity, whose gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor.clone())
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.saved_tensors[0], None


def early_factor(net: Net, x: Tensor) -> Tensor:
    return Scaled.apply(net.body(x), (1 + net.head.weight.norm()).detach())


def early_statistics(net: Net, x: Tensor) -> Tensor:
    factor = 1 + net.body[1].running_var.sum()
    return Scaled.apply(net.body(x), factor)


def hooked(net: Net) -> Net:
    """A full backward hook of a module, which reads its weight."""
    net.body[-1].register_full_backward_hook(lambda module, before, _: (before[0] * (1 + module.weight.norm()),))
    return net


def scaled_inside(net: Net, x: Tensor) -> Tensor:
    """What :func:`hooked` comes to."""
    h = net.body[:-1](x)
    return net.body[-1](Scaled.apply(h, (1 + net.body[-1].weight.norm()).detach()))


def counting(net: Net, x: Tensor) -> Tensor:
    """What is recomputed counts too, on a buffer that it reads and writes."""

    def body(x: Tensor) -> Tensor:
        net.runs.add_(1)
        return net.body(x) * (1 + 0.1 * net.runs)

    return checkpoint(body, x, use_reentrant=False)


def counting_directly(net: Net, x: Tensor) -> Tensor:
    net.runs.add_(1)
    return net.body(x) * (1 + 0.1 * net.runs)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def parametrized(norm: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Sequential]:
    def build() -> nn.Sequential:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # two of them are deprecated and in use
            return nn.Sequential(
                norm(nn.Conv2d(3, 4, 3, padding=1)), nn.ReLU(), norm(nn.Conv2d(4, 4, 3, padding=1))
            )

    return build


def doubled(conv: nn.Module) -> nn.Module:
    parametrize.register_parametrization(conv, "weight", Doubled())
    return conv


# The layers, the late reader, and what it is compared with.
LATE: dict[str, tuple[Callable[[], nn.Sequential], Run, Run]] = {
    "checkpoint": (layers, checkpointed, directly),
    "checkpoint to its end": (layers, without_early_stop, directly),
    "checkpoint_sequential": (lambda: layers(nn.Tanh(), nn.Conv2d(4, 4, 1)), in_segments, directly),
    "nested": (layers, nested, directly),
    "batch norm": (lambda: layers(nn.BatchNorm2d(4)), checkpointed, directly),
    "dropout": (lambda: layers(nn.BatchNorm2d(4), nn.Dropout(0.3)), checkpointed, directly),
    "a buffer": (layers, counting, counting_directly),
    "parametrize": (parametrized(doubled), checkpointed, directly),
    "weight_norm": (parametrized(parametrizations.weight_norm), checkpointed, directly),
    "weight_norm of old": (parametrized(weight_norm), checkpointed, directly),
    "spectral_norm": (parametrized(parametrizations.spectral_norm), checkpointed, directly),
    "spectral_norm of old": (parametrized(spectral_norm), checkpointed, directly),
    "saved by name": (layers, by_name, directly),
    "save_on_cpu": (layers, offloaded, directly),
    "a tensor's hook": (layers, late_factor, early_factor),
    "a hook on statistics": (lambda: layers(nn.BatchNorm2d(4)), late_statistics, early_statistics),
    "a module's hook": (layers, lambda net, x: net.body(x), scaled_inside),
}


def pair(name: str) -> tuple[Net, Net]:
    """The late reader and the other, in float64 and of the same weights."""
    build, late, early = LATE[name]
    nets = []
    for run in (late, early):
        torch.manual_seed(7)
        nets.append(Net(build(), run).double())
    return (hooked(nets[0]) if name == "a module's hook" else nets[0]), nets[1]
