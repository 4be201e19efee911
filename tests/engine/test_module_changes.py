"""A module that changes after its recording trains as by eager, and is left as it was by recordings and replays."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from devices import random_state
from side_by_side import assert_same, batch, recorded, step, twins
from torch import Tensor, nn

from fastiseat import PGD
from fastiseat.engine.recording.recorder import MOST_RECORDINGS


class Two(nn.Module):
    """Two branches, one of them with all that can change about a module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.2)
        self.head = nn.Linear(4, 10)
        self.slope = 1.0
        self.register_buffer("scale", torch.ones(4))
        self.offset = torch.zeros(4)
        self.factors = [torch.ones(4)]
        self.handle = self.register_forward_hook(lambda module, args, output: output + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = (self.bn(self.conv(x)).relu() * self.slope).mean((2, 3)) * self.scale
        return self.head(self.drop(x * self.factors[0] + self.offset))

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        self.offset, self.factors = fn(self.offset), [fn(factor) for factor in self.factors]
        return super()._apply(fn, recurse)


def move_parameter_data(model: Two) -> None:
    model.conv.weight.data = model.conv.weight.data.clone() * 1.5


def write_parameter_data(model: Two) -> None:
    model.conv.weight.data.mul_(1.5)


def assign_state(model: Two) -> None:
    model.load_state_dict({name: tensor * 1.01 for name, tensor in model.state_dict().items()}, assign=True)


def load_state(model: Two) -> None:
    model.load_state_dict({name: tensor * 1.01 for name, tensor in model.state_dict().items()})


def move_module(model: Two) -> None:
    model.to(torch.float32).to(torch.float64)


def replace_buffer(model: Two) -> None:
    model.scale = model.scale * 2


def replace_buffers_data(model: Two) -> None:
    model.bn.running_mean.data = model.bn.running_mean + 1


def write_buffer(model: Two) -> None:
    model.scale.mul_(2)


def replace_plain_tensor(model: Two) -> None:
    model.offset = model.offset + 0.5


def write_plain_tensor(model: Two) -> None:
    model.offset += 0.5


def replace_plain_tensors_data(model: Two) -> None:
    model.offset.data = model.offset + 0.5


def replace_in_a_list(model: Two) -> None:
    model.factors[0] = model.factors[0] * 3


def write_in_a_list(model: Two) -> None:
    model.factors[0].mul_(3)


def swap_hooks(model: Two) -> None:
    model.handle.remove()
    model.handle = model.register_forward_hook(lambda module, args, output: output * 2)


def remove_hook(model: Two) -> None:
    model.handle.remove()


def add_hook(model: Two) -> None:
    model.bn.register_forward_hook(lambda module, args, output: output * 1.1)


def add_pre_hook(model: Two) -> None:
    model.register_forward_pre_hook(lambda module, args: (args[0] * 0.9,))


def add_tensor_hook(model: Two) -> None:
    model.conv.weight.register_hook(lambda gradient: gradient * 2)


def change_dropout(model: Two) -> None:
    model.drop.p = 0.6


def turn_dropout_off(model: Two) -> None:
    model.drop.p = 0.0


def change_attribute(model: Two) -> None:
    model.slope = 0.5


def change_bn_momentum(model: Two) -> None:
    model.bn.momentum = 0.3


def replace_submodule(model: Two) -> None:
    torch.manual_seed(8)
    model.head = nn.Linear(4, 10).to(model.scale)


def replace_by_the_same(model: Two) -> None:
    model.head = copy.deepcopy(model.head)


def replace_parameter(model: Two) -> None:
    model.head.weight = nn.Parameter(model.head.weight.detach() * 2)


def freeze(model: Two) -> None:
    model.conv.requires_grad_(False)


def replace_forward(model: Two) -> None:
    model.bn.forward = lambda x: x * 0.5


def parametrize_weight(model: Two) -> None:
    nn.utils.parametrizations.weight_norm(model.head)


CHANGES: list[Callable[[Two], None]] = [
    move_parameter_data,
    write_parameter_data,
    assign_state,
    load_state,
    move_module,
    replace_buffer,
    replace_buffers_data,
    write_buffer,
    replace_plain_tensor,
    write_plain_tensor,
    replace_plain_tensors_data,
    replace_in_a_list,
    write_in_a_list,
    swap_hooks,
    remove_hook,
    add_hook,
    add_pre_hook,
    add_tensor_hook,
    change_dropout,
    turn_dropout_off,
    change_attribute,
    change_bn_momentum,
    replace_submodule,
    replace_by_the_same,
    replace_parameter,
    freeze,
    replace_forward,
    parametrize_weight,
]


@recorded
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_module_that_changes_after_its_recording(
    change: Callable[[Two], None], device: str, engine: str
) -> None:
    torch.manual_seed(2)
    eager, replayed = twins(Two().to(device, torch.float64), engine, attack=PGD(steps=1))
    for n in range(4):
        for one in (eager, replayed):
            if n == 2:
                change(one.model)
            one(*batch(n, device=device))
        assert_same(replayed, eager)


@recorded
def test_an_attribute_in_the_place_of_a_dropped_one_is_another(device: str, engine: str) -> None:
    """What a state knew by its identity is kept, or the next could have it too."""
    torch.manual_seed(2)
    eager, replayed = twins(Two().to(device, torch.float64), engine, attack=PGD(steps=1))
    for n in range(2 * MOST_RECORDINGS):
        for one in (eager, replayed):
            one.model.bn.forward = partial(torch.mul, other=0.5 + n)
            one(*batch(n, device=device))
        assert_same(replayed, eager)


@recorded
def test_recordings_and_replays_leave_the_world_as_it_was(device: str, engine: str) -> None:
    torch.manual_seed(2)
    model = Two().to(device, torch.float64).eval()
    model.bn.train()
    one = step(model, engine, attack=PGD(steps=2, random_start=True))
    modes = [module.training for module in model.modules()]

    def world() -> list[object]:
        numbers = [torch.get_rng_state().tolist(), random_state(device).tolist(), random.getstate()]
        numpys = np.random.get_state()[1].tolist()  # noqa: NPY002
        return [*numbers, numpys, torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()]

    before = world()
    for n in range(3):
        with torch.no_grad():
            one(*batch(n, device=device))
        assert world() == before
        assert [module.training for module in model.modules()] == modes
    assert all(weight.grad is None for weight in model.parameters())
