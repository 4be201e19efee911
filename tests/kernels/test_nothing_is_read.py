"""No op reads a value of a tensor, nor brings one from the host: recorded once, its work may be replayed.

On meta there are no values to read, and what is not made there would be copied to a device at every call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from flat_buffers import PERTURBED, SIZES, segments
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastiseat.errors import UserError
from fastiseat.kernels import (
    augment,
    bn_act,
    bn_act_eval,
    idbh,
    pgd_step,
    sgd,
    stability_loss,
    weight_perturb,
)
from fastiseat.kernels.bn_act.running import Arguments as Running
from fastiseat.kernels.bn_act.running import _update as update_running_stats
from fastiseat.kernels.core import dispatch
from fastiseat.kernels.core import flat as flat_checks
from fastiseat.kernels.core.checks import host_may_look
from fastiseat.kernels.idbh.policies import POLICIES

READS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "aminmax"}
COPIES_FROM_THE_HOST = {"lift", "lift_fresh", "lift_fresh_copy"}
MASKABLE = {"index", "index_put", "index_put_", "_index_put_impl_"}
SHAPE = (6, 3, 8, 9)


class Recorder(TorchDispatchMode):
    """Notes the ops of a capture that could not be made on a device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.refused, self.seen = device, set(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, result = func._schema.name.removeprefix("aten::"), func(*args, **(kwargs or {}))
        self.seen += 1
        masks = name in MASKABLE and any(each is not None and each.dtype == torch.bool for each in args[1])
        if masks or name in READS | COPIES_FROM_THE_HOST:
            self.refused.add(name)
        tensors = [each for each in torch.utils._pytree.tree_leaves(result) if isinstance(each, Tensor)]
        if any(tensor.device.type != self.device for tensor in tensors):
            self.refused.add(f"{name}, not on {self.device}")
        return result


class Case:
    """Arguments on one device: everything that a training step gives an op."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype

    def values(self, *shape: int, grad: bool = False) -> Tensor:
        return torch.rand(shape, dtype=self.dtype).to(self.device).requires_grad_(grad)

    def number(self, value: float, dtype: torch.dtype | None = None) -> Tensor:
        return torch.full((), value, dtype=dtype or self.dtype, device=self.device)

    def whole(self, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.randint(high, shape, dtype=dtype).to(self.device)


def augments(case: Case, **settings: Any) -> Callable[[], object]:
    images = case.whole(256, 9, 12, 10, 3, dtype=torch.uint8)
    rows, index, epoch = case.whole(9, 6), case.whole(10**10, 6), case.number(3, torch.int64)
    return lambda: augment(images, index, rows=rows, seed=2**63, epoch=epoch, dtype=case.dtype, **settings)


def idbhs(case: Case, policy: str) -> Callable[[], object]:
    images = case.whole(256, 6, 36, 40, 3, dtype=torch.uint8)
    index, epoch = case.whole(10**10, 6), case.number(3, torch.int64)
    return lambda: idbh(images, index, seed=1, epoch=epoch, policy=policy, dtype=case.dtype)


def pgd(case: Case, **settings: Any) -> Callable[[], object]:
    tensors = [case.values(*SHAPE) for _ in range(3)]
    numbers = {"eps": case.number(0.1), "step_size": case.number(0.02)}
    return lambda: pgd_step(*tensors, **numbers, **settings)


def loss(case: Case, grad: bool, **settings: Any) -> Callable[[], object]:
    logits, clean, labels = case.values(7, 5, grad=grad), case.values(7, 5, grad=grad), case.whole(5, 7)
    lam, upstream = case.number(0.1), case.number(1)

    def run() -> None:
        total = stability_loss(logits, clean, labels, lam=lam, **settings).total
        if grad:
            torch.autograd.grad(total, (logits, clean), upstream)

    return run


def flat(case: Case) -> Tensor:
    return case.values(segments(SIZES, PERTURBED).num_elements)


def perturb(case: Case, norm: str) -> Callable[[], object]:
    table = segments(device=case.device)
    weights, grad, out, gamma = flat(case), flat(case), flat(case), case.number(0.005)
    return lambda: weight_perturb(weights, grad, table, gamma=gamma, norm=norm, out=out)


def update(case: Case) -> Callable[[], object]:
    table = segments(device=case.device)
    weights, buffer, *gradients, ema = (flat(case) for _ in range(6))
    numbers = {name: case.number(0.1) for name in ("lr", "momentum", "weight_decay", "ema_decay")}
    gradients = dict(zip(("grad", "second_grad", "perturbation_grad"), gradients, strict=True))
    ratio, active, skip = case.values(len(SIZES)), case.whole(2, len(SIZES)) == 0, case.number(0, torch.bool)
    given = {"ratio": ratio, "active": active, "skip": skip, "ema": ema}
    return lambda: sgd(weights, buffer, segments=table, **gradients, **numbers, **given)


def norm_act(case: Case, evaluation: bool) -> Callable[[], object]:
    a, b = (case.values(*SHAPE, grad=True) for _ in range(2))
    weight, bias = (case.values(SHAPE[1], grad=True) for _ in range(2))
    mean, var, upstream = case.values(SHAPE[1]), case.values(SHAPE[1]), case.values(*SHAPE)

    def run() -> None:
        if evaluation:
            s, y = bn_act_eval(a, b, weight, bias, mean, var, eps=1e-5)
        else:
            s, y, *_ = bn_act(a, b, weight, bias, eps=1e-5)
        torch.autograd.grad((s, y), (a, b, weight, bias), (upstream, upstream))

    return run


def running(case: Case) -> Callable[[], object]:
    means, variances, batch_means, batch_variances = ([case.values(3), case.values(5)] for _ in range(4))
    counters = [case.number(0, torch.int64) for _ in range(2)]
    return lambda: update_running_stats(Running(means, variances, counters, batch_means, batch_variances, 0.1))


CASES: dict[str, Callable[[Case], Callable[[], object]]] = {
    "augment-zero": lambda case: augments(case, pad=2),
    "augment-reflect": lambda case: augments(case, pad=2, pad_mode="reflect"),
    "augment-none": lambda case: augments(case, pad=0, flip=False),
    **{f"idbh-{name}": lambda case, name=name: idbhs(case, name) for name in POLICIES},
    "pgd-linf": lambda case: pgd(case, norm="linf"),
    "pgd-l2": lambda case: pgd(case, norm="l2"),
    **{
        f"loss-{weighting}-{distance}-{'backward' if grad else 'forward'}": (
            lambda case, grad=grad, choice={"weighting": weighting, "distance": distance}: loss(
                case, grad, **choice
            )
        )
        for weighting in ("linear", "uniform", "top")
        for distance in ("l2", "kl")
        for grad in (False, True)
    },
    "perturb-tensor": lambda case: perturb(case, "tensor"),
    "perturb-global": lambda case: perturb(case, "global"),
    "sgd": update,
    "bn-train": lambda case: norm_act(case, evaluation=False),
    "bn-eval": lambda case: norm_act(case, evaluation=True),
    "bn-running": running,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_read(monkeypatch, name, device, dtype):
    monkeypatch.setenv(dispatch.VARIABLE, dispatch.REFERENCE)
    if device == "meta":  # where all addresses are one
        monkeypatch.setattr(flat_checks, "check_apart", lambda *_: None)
    run = CASES[name](Case(device, dtype))
    with Recorder(device) as recorder:
        run()
    assert recorder.seen and not recorder.refused


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: x[x > 0], "index"),
        (lambda x: x + torch.tensor([1.0]), "lift_fresh"),
        (lambda x: torch.equal(x, x), "equal"),
        (lambda x: x.new_empty(0, device="meta"), "new_empty, not on cpu"),
    ],
)
def test_the_recorder_sees_them(read, name):
    with Recorder("cpu") as recorder:
        read(torch.ones(3))
    assert name in recorder.refused


class TestChecks:
    def test_the_host_looks_where_it_waits_for_nobody(self):
        here = torch.arange(3)
        assert host_may_look(here)
        assert not host_may_look(here.to("meta"))
        assert not host_may_look(torch.Tensor._make_subclass(type("Mine", (Tensor,), {}), here))
        with Recorder("cpu"):
            assert not host_may_look(here)
        assert host_may_look(here)

    def test_they_are_made_before_and_after_a_recording(self):
        images, rows = torch.zeros(2, 4, 4, 1, dtype=torch.uint8), torch.arange(3)
        for _ in range(2):
            with pytest.raises(UserError, match="rows lie in 0 … 2"):
                augment(images, rows, rows=rows, seed=0, epoch=0)
            with Recorder("cpu"):
                augment(images, rows[:2], rows=rows[:2], seed=0, epoch=0)
