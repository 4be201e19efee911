"""``bn_act``: the reference against PyTorch's modules and autograd, each backend against the reference in float64."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from devices import DEVICES
from flat_buffers import reference_of
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.kernels import bn_act, bn_act_eval, update_running_stats
from fastiseat.kernels.bn_act import _EVAL_OP, _OP, _OPS
from fastiseat.kernels.bn_act import native as bn_native
from fastiseat.kernels.bn_act.arguments import Train
from fastiseat.kernels.bn_act.layout import layout
from fastiseat.kernels.core import native

HERE = Path(__file__).parent
EPS = 1e-5
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(5, 1), (33, 5), (3, 7, 5), (1, 3, 3, 1), (127, 2, 1, 1), (2, 16, 8, 8), (20, 17, 4, 4), (2, 2, 37, 29)]
CASES = [*zip(SHAPES, DTYPES * 3, strict=False), *((SHAPES[5], dtype) for dtype in DTYPES[:2])]
FORMATS = [torch.contiguous_format, torch.channels_last]
# NumPy, in which Triton's interpreter computes, warns where a device says nothing.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
on_every_backend = pytest.mark.parametrize("backend", ["native", "triton"])
on_every_device = pytest.mark.parametrize("device", DEVICES)
needs_native = pytest.mark.skipif(native.library().handle is None, reason=native.library().missing)


@pytest.fixture
def use(monkeypatch):
    """Ask for a backend by name: every call below is its, or an error."""

    def named(backend: str) -> None:
        monkeypatch.setenv("FASTISEAT_KERNELS", backend)

    return named


def case(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    device: str = "cpu",
) -> list[Tensor]:
    """a, b, dy, ds, then weight, bias, mean and var."""
    if memory_format == torch.channels_last and len(shape) != 4:
        pytest.skip("channels_last has four dimensions")
    big = [
        (2 * torch.randn(shape) + 1).to(device, dtype).contiguous(memory_format=memory_format) for _ in range(4)
    ]
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    channels = [torch.rand(shape[1], dtype=exact) + 0.5 for _ in range(4)]
    return [*big, *(x.to(device) for x in (channels[0], channels[1] - 1, channels[2], channels[3]))]


def doubles(tensors: tuple[Tensor | None, ...]) -> list[Any]:
    return [x.detach().cpu().double() if isinstance(x, Tensor) else x for x in tensors]


def assert_close(found: Tensor, expected: Tensor, ulps: float = 8) -> None:
    """To a few units in the last place of the largest element."""
    assert found.shape == expected.shape
    tolerance = ulps * torch.finfo(found.dtype).eps * max(expected.abs().max().item(), 1e-3)
    torch.testing.assert_close(found.detach().cpu().double(), expected, rtol=0, atol=tolerance)


def assert_sum(s: Tensor, a: Tensor, b: Tensor | None, backend: str) -> None:
    """Bit for bit; Triton's interpreter cuts bfloat16 off where a card rounds."""
    cut = backend == "triton" and a.dtype == torch.bfloat16 and not a.is_cuda
    expected = a if b is None else a + b
    torch.testing.assert_close(s, expected, rtol=torch.finfo(a.dtype).eps if cut else 0, atol=0)


def assert_layout(found: Tensor, like: Tensor) -> None:
    assert found.dtype == like.dtype
    assert found.is_contiguous(memory_format=layout(like))


def leaves(*tensors: Tensor | None) -> list[Any]:
    return [x if x is None else x.detach().clone().requires_grad_() for x in tensors]


def exact_gradients(
    s: Tensor, dy: Tensor, ds: Tensor, vectors: list[Tensor], statistics: list[Tensor]
) -> list[Tensor]:
    """Of s, weight and bias, by autograd of the reference in float64 at the very s that was rounded."""
    inputs = leaves(*doubles((s, *vectors)))
    if statistics:
        _, y = reference_of("bn_act_eval")(inputs[0], None, *inputs[1:], *doubles(tuple(statistics)), eps=EPS)
    else:
        y = reference_of("bn_act")(inputs[0], None, *inputs[1:], eps=EPS)[1]
    dy, ds = doubles((dy, ds))
    dx, *others = torch.autograd.grad(y, inputs, dy)
    return [dx + ds, *others]


class TestReference:
    @pytest.mark.parametrize("memory_format", FORMATS)
    def test_is_a_module_and_a_relu(self, memory_format):
        a, b, *_, weight, bias, _, _ = case((5, 3, 4, 4), torch.float64, memory_format)
        module = torch.nn.BatchNorm2d(3, momentum=1.0, dtype=torch.float64)
        module.weight.data, module.bias.data = weight, bias
        s, y, mean, var = bn_act(a, b, weight, bias, eps=EPS)
        assert torch.equal(s, a + b)
        torch.testing.assert_close(y, module(a + b).relu())
        torch.testing.assert_close((mean, var), (module.running_mean, module.running_var))
        torch.testing.assert_close(
            bn_act_eval(a, b, weight, bias, mean, var, eps=EPS)[1], module.eval()(a + b).relu()
        )
        assert_layout(y, a)
        assert not mean.requires_grad
        assert not var.requires_grad

    def test_without_b_the_sum_is_a(self):
        a, *_, weight, bias, mean, var = case((5, 3))
        assert bn_act(a, None, weight, bias, eps=EPS).s is a
        assert bn_act_eval(a, None, weight, bias, mean, var, eps=EPS)[0] is a

    @pytest.mark.parametrize("with_b", [True, False])
    def test_explicit_gradients_are_autograd_s(self, with_b):
        a, b, dy, ds, weight, bias, mean, var = case((6, 3, 2, 3), torch.float64)
        b = b if with_b else None
        inputs = leaves(a, weight, bias)
        s, y, mean, rstd, _ = reference_of("bn_act")(inputs[0], b, *inputs[1:], eps=EPS)
        s = s if with_b else a
        expected = torch.autograd.grad(y, inputs, dy)
        found = reference_of("bn_act_backward")(dy, ds, s.detach(), weight, bias, mean, rstd)
        torch.testing.assert_close(found, (expected[0] + ds, *expected[1:]))
        _, y = reference_of("bn_act_eval")(inputs[0], b, *inputs[1:], mean, var, eps=EPS)
        expected = torch.autograd.grad(y, inputs, dy)
        found = reference_of("bn_act_eval_backward")(
            dy, None, s.detach(), weight, bias, mean, var, eps=EPS, sums=True
        )
        torch.testing.assert_close(found, expected)


class TestRegistered:
    """What the ops are to autograd and compilers, in float64, which the reference serves."""

    @pytest.mark.parametrize("with_b", [True, False])
    def test_gradcheck(self, with_b):
        a, b, *_, weight, bias, mean, var = case((4, 2, 2, 3), torch.float64)
        inputs = leaves(a, b if with_b else None, weight, bias)
        ops = torch.ops.fastiseat
        chosen = slice(None) if with_b else slice(1, None)
        assert torch.autograd.gradcheck(lambda *x: ops.bn_act(*x, EPS)[:2][chosen], inputs)
        assert torch.autograd.gradcheck(lambda *x: ops.bn_act_eval(*x, mean, var, EPS)[chosen], inputs)

    @pytest.mark.parametrize(
        ("with_b", "dtype", "memory_format"),
        [(True, torch.float64, FORMATS[1]), (True, torch.float32, FORMATS[0]), (False, torch.float32, FORMATS[1])],
    )
    def test_opcheck(self, with_b, dtype, memory_format):
        a, b, dy, ds, weight, bias, mean, var = case((4, 3, 2, 3), dtype, memory_format)
        inputs = leaves(a, b if with_b else None, weight, bias)
        ops, some = torch.ops.fastiseat, (dy, ds if with_b else None, a, weight, bias, mean, var)
        torch.library.opcheck(ops.bn_act.default, (*inputs, EPS))
        torch.library.opcheck(ops.bn_act_eval.default, (*inputs, mean, var, EPS))
        torch.library.opcheck(ops.bn_act_backward.default, some)
        torch.library.opcheck(ops.bn_act_eval_backward.default, (*some, EPS, with_b))

    @needs_native
    def test_compiles_whole(self, use):
        use("native")
        a, b, *_, weight, bias, mean, var = case((4, 3, 5, 5))

        def loss(*inputs: Tensor) -> Tensor:
            s, y, *_ = bn_act(*inputs, eps=EPS)
            return (s * y).sum() + bn_act_eval(y, s, *inputs[2:], mean, var, eps=EPS)[1].sum()

        inputs = leaves(a, b, weight, bias)
        expected = torch.autograd.grad(loss(*inputs), inputs)
        found = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(*inputs), inputs)
        assert all(map(torch.equal, found, expected))


@on_every_backend
@on_every_device
class TestBackends:
    @pytest.mark.parametrize("memory_format", FORMATS)
    @pytest.mark.parametrize(("shape", "dtype"), CASES)
    def test_training(self, backend, device, use, shape, dtype, memory_format):
        use(backend)
        a, b, dy, ds, *vectors, _, _ = case(shape, dtype, memory_format, device)
        for other in (b, None):
            inputs = leaves(a, other, *vectors)
            s, y, mean, var = bn_act(*inputs, eps=EPS)
            assert_sum(s, a, other, backend)
            _, *expected = reference_of("bn_act")(doubles((s,))[0], None, *doubles(tuple(vectors)), eps=EPS)
            for found, wanted in zip((y, mean, var), (expected[0], expected[1], expected[3]), strict=True):
                assert_close(found, wanted)
            assert_layout(y, a)
            self.assert_gradients(inputs, s, y, dy, ds, vectors, [])

    @pytest.mark.parametrize("memory_format", FORMATS)
    @pytest.mark.parametrize(("shape", "dtype"), [((1, 3), torch.float32), *CASES[-5:]])
    def test_evaluation(self, backend, device, use, shape, dtype, memory_format):
        use(backend)
        a, b, dy, ds, *vectors, mean, var = case(shape, dtype, memory_format, device)
        for other in (b, None):
            inputs = leaves(a, other, *vectors)
            s, y = bn_act_eval(*inputs, mean, var, eps=EPS)
            assert_sum(s, a, other, backend)
            exact = doubles((s, None, *vectors, mean, var))
            assert_close(y, reference_of("bn_act_eval")(*exact, eps=EPS)[1])
            assert_layout(y, a)
            self.assert_gradients(inputs, s, y, dy, ds, vectors, [mean, var])

    def assert_gradients(self, inputs, s, y, dy, ds, vectors, statistics):
        a, b, weight, bias = inputs
        wanted = exact_gradients(s, dy, ds, vectors, statistics)
        if b is None:
            dx, dweight, dbias = torch.autograd.grad(y, (a, weight, bias), dy)
            wanted[0] = wanted[0] - ds.detach().cpu().double()
        else:
            dx, db, dweight, dbias = torch.autograd.grad((s, y), inputs, (ds, dy))
            assert torch.equal(dx, db)
        assert_layout(dx, a)
        for found, expected in zip((dx, dweight, dbias), wanted, strict=True):
            assert_close(found, expected, 16)

    @pytest.mark.parametrize("training", [True, False])
    def test_any_of_the_results_may_go_unused(self, backend, device, use, training):
        """And a graph may be walked twice."""
        use(backend)
        a, b, dy, ds, weight, bias, mean, var = case((3, 5, 4, 4), device=device)
        inputs = leaves(a, b, weight, bias)
        s, y, *_ = bn_act(*inputs, eps=EPS) if training else bn_act_eval(*inputs, mean, var, eps=EPS)
        both = torch.autograd.grad((s, y), inputs, (ds, dy), retain_graph=True)
        again = torch.autograd.grad((s, y), inputs, (ds, dy), retain_graph=True)
        assert all(map(torch.equal, again, both))
        alone = torch.autograd.grad(s, inputs[:2], ds, retain_graph=True)
        assert torch.equal(alone[0], ds)
        assert torch.equal(alone[1], ds)
        (without,) = torch.autograd.grad(y, inputs[0], dy)
        torch.testing.assert_close(without + ds, both[0])
        detached = bn_act_eval(inputs[0], None, weight, bias, mean, var, eps=EPS)[1]
        expected = bn_act_eval(*leaves(a, None, weight, bias), mean, var, eps=EPS)[1]
        assert torch.equal(detached, expected)
        assert detached.requires_grad

    @pytest.mark.parametrize("memory_format", FORMATS)
    def test_a_mean_far_from_zero_costs_no_digits(self, backend, device, use, memory_format):
        use(backend)
        shape = (40, 3, 8, 8)
        a = (torch.randn(shape) + 1e4).contiguous(memory_format=memory_format).to(device)
        _, y, mean, var = bn_act(a, None, torch.ones(3, device=device), torch.zeros(3, device=device), eps=EPS)
        var_wanted, mean_wanted = torch.var_mean(a.cpu().double(), (0, 2, 3))
        torch.testing.assert_close(mean.cpu().double(), mean_wanted, rtol=1.2e-7, atol=0)
        torch.testing.assert_close(var.cpu().double(), var_wanted, rtol=1e-6, atol=0)
        centred = a.cpu().double() - mean.cpu().double().view(1, 3, 1, 1)
        assert_close(y, (centred * (var_wanted.view(1, 3, 1, 1) * 2559 / 2560 + EPS).rsqrt()).relu())

    def test_mixed_layouts_follow_the_first(self, backend, device, use):
        use(backend)
        a, b, dy, ds, weight, bias, *_ = case((3, 5, 4, 6), torch.float32, torch.channels_last, device)
        expected = self.results(a, b, dy, ds, weight, bias)
        strided = torch.stack((b, b), -1)[..., 0]
        found = self.results(a, strided, dy.contiguous(), ds.contiguous(), weight, bias)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)
        torch.testing.assert_close(self.results(strided, a, dy, ds, weight, bias)[1], expected[1])

    def results(self, a, b, dy, ds, weight, bias):
        inputs = leaves(a, b, weight, bias)
        s, y, *_ = bn_act(*inputs, eps=EPS)
        return s, y, *torch.autograd.grad((s, y), inputs, (ds, dy))

    def test_special_values_stay_in_their_channel(self, backend, device, use):
        use(backend)
        a, _, _, _, weight, bias, mean, var = case((2, 6, 4, 4), torch.float32, torch.channels_last, device)
        for channel, value in enumerate([math.nan, math.inf, 1e-41, 0.0]):
            a[:, channel] = value if channel > 1 else a[:, channel]
            a[1, channel, 2, 1] = value
        found = bn_act(a, None, weight, bias, eps=EPS)
        expected = reference_of("bn_act")(a.cpu(), None, weight.cpu(), bias.cpu(), eps=EPS)
        torch.testing.assert_close(found.y.cpu(), expected[1], equal_nan=True)
        assert not found.mean[:2].isfinite().any()
        torch.testing.assert_close(found.mean[2:].cpu(), expected[2][2:])
        _, y = bn_act_eval(a, None, weight, bias, mean, var, eps=EPS)
        wanted = reference_of("bn_act_eval")(*doubles((a, None, weight, bias, mean, var)), eps=EPS)[1]
        torch.testing.assert_close(y.cpu(), wanted.float(), equal_nan=True)

    def test_saturated_channels(self, backend, device, use):
        """Where every element is closed, dx is ds alone; where the variance is 0, everything is finite."""
        use(backend)
        a, b, dy, ds, weight, bias, *_ = case((4, 2, 5, 5), torch.float32, torch.channels_last, device)
        a[:, 0], b[:, 0] = 2.0, 1.0
        bias = bias - 1e3
        results = self.results(a, b, dy, ds, weight, bias)
        assert not results[1].any()
        assert torch.equal(results[2], ds)
        assert not results[4].any()
        assert not results[5].any()


@needs_native
class TestNativeOnTheCpu:
    @pytest.mark.parametrize("memory_format", FORMATS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_results_do_not_depend_on_the_threads(self, use, monkeypatch, dtype, memory_format):
        use("native")
        arguments = case((70, 12, 16, 16), dtype, memory_format)[:6]
        results = []
        for threads in (1, 2, 3):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            results.append(TestBackends().results(*arguments))
        for others in results[1:]:
            assert all(map(torch.equal, others, results[0]))

    def test_few_elements_are_left_to_pytorch(self, monkeypatch):
        monkeypatch.delenv("FASTISEAT_KERNELS", raising=False)
        a, *_, weight, bias, _, _ = case((2, 4, 8, 8))
        assert "too few" in bn_native.unfit_forward(Train(a, None, weight, bias, eps=EPS))
        large = torch.empty(bn_native.SMALL // 64, 1, 8, 8)
        assert bn_native.unfit_forward(Train(large, None, weight[:1], bias[:1], eps=EPS)) == ""
        monkeypatch.setenv("FASTISEAT_KERNELS", "native")
        assert bn_native.unfit_forward(Train(a, None, weight, bias, eps=EPS)) == ""

    def test_automatic_choice_takes_it(self, monkeypatch):
        monkeypatch.delenv("FASTISEAT_KERNELS", raising=False)
        assert all(op.choice("cpu", torch.float32).name == "native" for op in _OPS)
        assert {op.choice("cpu", torch.float64) for op in (_OP, _EVAL_OP)} == {None}


def test_triton_compiles_for_cards_that_are_not_here(tmp_path):
    """The interpreter takes Python that the compiler refuses."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, HERE / "triton_bn_act_compile.py"],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 9


@on_every_device
def test_running_statistics_are_those_of_modules(device):
    modules = [torch.nn.BatchNorm2d(size, momentum=0.3).to(device) for size in (3, 5)]
    copies = [torch.nn.BatchNorm2d(size).to(device) for size in (3, 5)]
    batches = [torch.randn(4, size, 3, 3, device=device) for size in (3, 5)]
    found = [bn_act(x, None, m.weight, m.bias, eps=m.eps) for x, m in zip(batches, modules, strict=True)]
    update_running_stats(
        [copy.running_mean for copy in copies],
        [copy.running_var for copy in copies],
        [copy.num_batches_tracked for copy in copies],
        [one.mean for one in found],
        [one.var for one in found],
        momentum=0.3,
    )
    for module, x, copy in zip(modules, batches, copies, strict=True):
        module(x)
        torch.testing.assert_close(copy.state_dict(), module.state_dict())


def test_running_statistics_are_one_op_that_mutates():
    lists = [[torch.rand(4), torch.rand(5)] for _ in range(4)]
    counters = [torch.tensor(1), torch.tensor(2)]
    op = torch.ops.fastiseat.update_running_stats.default
    torch.library.opcheck(op, (*lists[:2], counters, *lists[2:], 0.1))
    update_running_stats([], [], [], [], [], momentum=0.1)
    update_running_stats(*lists[:2], [], *lists[2:], momentum=1.0)
    torch.testing.assert_close(lists[:2], lists[2:])
    with pytest.raises(UserError, match="give one of each a layer"):
        update_running_stats(*lists[:2], counters[:1], *lists[2:], momentum=0.1)


def test_gradients_of_gradients_are_refused(use):
    use("native")
    a, b, dy, _, weight, bias, *_ = case((3, 2, 4, 4))
    inputs = leaves(a, b, weight, bias)
    dx, *_ = torch.autograd.grad(bn_act(*inputs, eps=EPS).y, inputs, dy.requires_grad_(), create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        dx.sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.zeros(1, 3)}, "Expected more than 1 value per channel when training"),
        ({"a": torch.zeros(1, 3, 1, 1), "b": None}, "Expected more than 1 value per channel when training"),
        ({"a": torch.zeros(3)}, r"a is torch.float32 of shape \(3,\)"),
        ({"a": torch.zeros(2, 3, dtype=torch.int32)}, "a is torch.int32"),
        ({"b": torch.zeros(2, 4)}, r"b is .* \(2, 4\); it must match a"),
        ({"b": torch.zeros(2, 3, dtype=torch.bfloat16)}, "b is torch.bfloat16"),
        ({"weight": torch.zeros(2)}, r"weight is .* \(2,\); torch.float32 of shape \(3,\)"),
        ({"bias": torch.zeros(3, dtype=torch.float64)}, "bias is torch.float64"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"a": torch.zeros(2, 3), "b": torch.zeros(2, 3), "weight": torch.ones(3), "bias": torch.ones(3)}
    arguments |= change
    if "a" in change and change["a"].shape != (2, 3):
        arguments["b"] = None
    with pytest.raises(UserError, match=message):
        bn_act(**arguments, eps=EPS)


def test_one_element_a_channel_is_enough_for_evaluation():
    vectors = [torch.ones(3) for _ in range(4)]
    s, y = bn_act_eval(torch.full((1, 3), 3.0), None, *vectors, eps=0.0)
    assert torch.equal(y, F.relu(s - 1 + 1))
