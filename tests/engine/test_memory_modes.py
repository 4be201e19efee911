"""The clean pass's graph kept or recomputed: the same step, and one graph alive at a time."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from oracles.compare import CASES
from side_by_side import (
    Plain,
    apart,
    assert_same,
    batch,
    delta,
    everything,
    parts_of,
    plain,
    recorded,
    small,
    step,
)
from torch import Tensor, nn

from fastiseat import AT, PGD, SGD, TrainStep, UserError


def assert_equal_steps(
    model: nn.Module, plan: list[dict[str, float]], *, engine: str = "eager", **parts: object
) -> None:
    device = next(model.parameters()).device.type
    keep, again = (step(copy.deepcopy(model), engine, clean_graph=kind, **parts) for kind in ("keep", "recompute"))
    for n, numbers in enumerate(plan):
        for one in (keep, again):
            one.set(**numbers)
            one(*batch(n, device=device))
    assert_same(again, keep, 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_recompute_equals_keep(case: str) -> None:
    plan, parts = parts_of(case)
    assert_equal_steps(small(), plan, **parts)


@recorded
@pytest.mark.parametrize("case", ["iseat", "eval-bn"])
def test_recompute_equals_keep_in_a_recording(case: str, device: str, engine: str) -> None:
    plan, parts = parts_of(case)
    assert_equal_steps(small(device), plan, engine=engine, **parts)


def test_recompute_equals_keep_without_a_clean_term() -> None:
    assert_equal_steps(small(), [{}] * 2, method=AT())


def test_recompute_equals_keep_at_a_given_delta() -> None:
    keep, again = (step(small(), "eager", clean_graph=kind) for kind in ("keep", "recompute"))
    for n in range(5):
        for one in (keep, again):
            one(*batch(n), delta(n))
    assert_same(again, keep, 1e-9)


def test_under_autocast_a_pass_without_gradients_leaves_no_casts_to_those_with() -> None:
    kind = {"dtype": torch.float32}
    keep, again = (
        step(plain(**kind), "eager", clean_graph=clean_graph, precision="bf16")
        for clean_graph in ("keep", "recompute")
    )
    for n in range(2):
        for one in (keep, again):
            one(*batch(n, **kind), delta(n, **kind))
    assert_same(again, keep, 1e-3)


class Dropping(Plain):
    """Draws numbers in each pass."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.dropout(super().forward(torch.dropout(x, 0.2, True)), 0.3, True)


@pytest.mark.parametrize("bn_mode", ["train", "eval"])
def test_the_second_clean_pass_drops_what_the_first_did(bn_mode: str) -> None:
    torch.manual_seed(2)
    attack = PGD(steps=3, bn_mode=bn_mode, random_start=True)
    assert_equal_steps(Dropping().double(), [{}] * 5, attack=attack)


def test_dropout_that_is_turned_on_later_is_drawn_twice_too() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Dropout(0.0), nn.Flatten(), nn.Linear(432, 10)).double()
    keep, again = (step(copy.deepcopy(model), "eager", clean_graph=kind) for kind in ("keep", "recompute"))
    for n in range(4):
        for one in (keep, again):
            one.model[0].p = 0.2 * n
            one(*batch(n))
    assert_same(again, keep, 1e-9)


def test_a_recording_cannot_draw_the_same_numbers_twice() -> None:
    one = step(Dropping().double(), "tape", clean_graph="recompute")
    with pytest.raises(UserError, match="random numbers again; take engine eager"):
        one(*batch())


@recorded
def test_an_overflow_in_fp16_voids_either_step(device: str, engine: str) -> None:
    """Twice, until the loss scale is small enough."""
    kind = {"device": device, "dtype": torch.float32}

    def train(engine: str, clean_graph: str) -> TrainStep:
        one = step(plain(**kind), engine, clean_graph=clean_graph, precision="fp16", optimizer=SGD(lr=0.001))
        one.load_state_dict(one.state_dict() | {"loss_scale": {"scale": 2.0**21, "good_steps": 7}})
        scales = []
        for n in range(6):
            one(*batch(n, **kind), delta(n, **kind))
            scales.append(one.state_dict()["loss_scale"]["scale"])
        assert scales[0] < 2.0**21
        assert scales[-1] == scales[-2]
        return one

    keep, again, replayed = train("eager", "keep"), train("eager", "recompute"), train(engine, "recompute")
    found, expected = everything(again), everything(keep)
    assert found["scale"] == expected["scale"]
    assert apart(found, expected) <= 0.02
    if device == "cpu":
        assert_same(replayed, again)


class Token:
    """Stands for a tensor that a graph keeps."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@contextmanager
def kept_for_backward(model: nn.Module) -> Iterator[list[int]]:
    """The bytes of activations that graphs hold at once, after each tensor that one takes."""
    alive: weakref.WeakSet[Token] = weakref.WeakSet()
    sizes: list[int] = []
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}

    def pack(tensor: Tensor) -> Token:
        token = Token(tensor)
        alive.add(token)
        storages = {t.tensor.untyped_storage().data_ptr(): t.tensor.untyped_storage().nbytes() for t in alive}
        sizes.append(sum(size for address, size in storages.items() if address not in own))
        return token

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda token: token.tensor):
        yield sizes


def most_kept(clean_graph: str, **parts: object) -> int:
    one = step(small(dtype=torch.float32), "eager", clean_graph=clean_graph, **parts)
    one(*batch(0, 16, dtype=torch.float32))
    with kept_for_backward(one.model) as sizes:
        one(*batch(1, 16, dtype=torch.float32))
    return max(sizes)


@pytest.mark.parametrize("bn_mode", ["train", "eval"])
def test_recompute_holds_one_graph_where_keep_holds_two(bn_mode: str) -> None:
    attack = PGD(steps=2, bn_mode=bn_mode)
    keep, again = (most_kept(kind, attack=attack) for kind in ("keep", "recompute"))
    one_graph = most_kept("keep", attack=attack, method=AT())
    assert keep >= 1.7 * one_graph
    assert again <= 1.1 * one_graph


class Greedy(Plain):
    """Memory runs out once, in the pass of this number that has a gradient."""

    runs_out_at = 0
    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) and torch.is_grad_enabled():  # a graph of fx, which has no length, would not count
            Greedy.passes += 1
            if Greedy.passes == Greedy.runs_out_at:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(x)


# In the attack, in the pass for ν, and in the last one, when all is alive.
@pytest.mark.parametrize("engine", ["eager", "tape"])
@pytest.mark.parametrize("at", [2, 4, 5])
def test_auto_recomputes_where_two_graphs_do_not_fit(
    at: int, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    torch.manual_seed(5)
    model = Greedy().float()
    kind = {"dtype": torch.float32}
    parts = {"precision": "fp16", "attack": PGD(steps=3, random_start=True)}
    expected = step(copy.deepcopy(model), engine, clean_graph="recompute", **parts)
    auto = step(model, engine, clean_graph="auto", say=said.append, **parts)
    momentum = {name: torch.ones_like(weight) for name, weight in model.named_parameters()}
    for one in (expected, auto):
        one.load_state_dict(one.state_dict() | {"momentum_buffers": momentum, "steps_taken": 4})
    for n in range(3):
        expected(*batch(n, **kind))
    monkeypatch.setattr(Greedy, "passes", 0)
    monkeypatch.setattr(Greedy, "runs_out_at", at)
    for n in range(3):
        auto(*batch(n, **kind))
    assert said == ["clean_graph=auto takes recompute: two graphs do not fit into memory at once"]
    assert_same(auto, expected, 0)


@pytest.mark.parametrize("clean_graph", ["keep", "recompute"])
def test_what_was_asked_for_is_not_replaced(clean_graph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Greedy, "passes", 0)
    monkeypatch.setattr(Greedy, "runs_out_at", 5)
    one = step(Greedy().double(), "eager", clean_graph=clean_graph)
    with pytest.raises(torch.OutOfMemoryError):
        one(*batch())


def test_auto_keeps_where_it_fits() -> None:
    said: list[str] = []
    auto, keep = (
        step(small(), "eager", clean_graph="auto", say=said.append),
        step(small(), "eager", clean_graph="keep"),
    )
    for n in range(2):
        for one in (auto, keep):
            one(*batch(n))
    assert_same(auto, keep, 0)
    assert not said
    assert not auto._algorithm.recompute_clean


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="unknown clean_graph 'keeps'; did you mean keep"):
        step(small(), "eager", clean_graph="keeps")
