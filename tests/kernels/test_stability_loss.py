"""``stability_loss``: the reference against the formula and autograd, each backend against the reference."""

from __future__ import annotations

import importlib
import itertools
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from devices import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.kernels import stability_loss
from fastiseat.kernels.core.signature import takes
from fastiseat.kernels.stability_loss import _OP, limits, reference
from fastiseat.kernels.stability_loss.arguments import Arguments

HERE = Path(__file__).parent
BACKENDS = {backend.name: backend for backend in _OP.backends}
CHOICES = list(itertools.product(["linear", "uniform", "top"], ["l2", "kl"]))
SHAPES = [(1, 1), (1, 10), (7, 1), (5, 3), (33, 17), (127, 10), (6, 1000), (300, 3)]
SPECIALS = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-38, 88.0, -104.0, 3e38, -3e38, 1.0]
# NumPy, in which Triton's interpreter computes, warns where a device says nothing.
quiet = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
pytestmark = quiet
on_every_backend = pytest.mark.parametrize("backend", ["triton", "native"])
on_every_device = pytest.mark.parametrize("device", DEVICES)


def batch(m: int, num_classes: int, device: str = "cpu", dtype: torch.dtype = torch.float32, spread: float = 3.0):
    logits, clean_logits = (spread * torch.randn(2, m, num_classes)).to(dtype).unbind()
    return logits.to(device), clean_logits.to(device), torch.randint(num_classes, (m,)).to(device)


def run(backend: str, arguments: tuple[Tensor, Tensor, Tensor], **choices: Any) -> reference.Results:
    call = Arguments(*arguments, **{"lam": 0.1} | choices)
    if backend == "reference":
        return reference.stability_loss(call)
    served = BACKENDS[backend]
    device = arguments[0].device.type
    assert served.unsupported(device, arguments[0].dtype) == "", "build the libraries, set TRITON_INTERPRET=1"
    assert served.unfit(call) == ""
    return served.run(call)


def exact(arguments: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    logits, clean_logits, labels = (tensor.detach().cpu() for tensor in arguments)
    return logits.double(), clean_logits.double(), labels


def assert_close(found: reference.Results, expected: reference.Results, units: float = 16) -> None:
    """Each result to a few units in the last place of its largest element."""
    for actual, wanted in zip(found, expected, strict=True):
        assert actual.shape == wanted.shape
        assert actual.dtype == torch.float32
        wanted = wanted.cpu().double()
        finite = wanted[wanted.isfinite()]
        largest = finite.abs().max().item() if finite.numel() else 0.0
        tolerance = units * torch.finfo(torch.float32).eps * max(largest, 1e-6)
        torch.testing.assert_close(actual.cpu().double(), wanted, rtol=0, atol=tolerance, equal_nan=True)


def assert_weights_of_own_losses(found: reference.Results, weighting: str, top: float = 0.1) -> None:
    """Close losses may swap ranks between implementations, but never within one."""
    losses, clean_losses, weights = (tensor.cpu() for tensor in found[3:6])
    assert torch.equal(weights, reference._weights(losses - clean_losses, weighting, top))


class TestReference:
    def test_formula_by_hand(self):
        """Two samples and classes; the second is the more vulnerable."""
        logits = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
        clean_logits = torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
        loss = stability_loss(logits, clean_logits, torch.tensor([0, 1]), lam=0.5)
        losses = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(2))]
        assert loss.losses.tolist() == pytest.approx(losses)
        assert loss.clean_losses.tolist() == pytest.approx([losses[0], math.log(1 + math.exp(-3))])
        assert loss.weights.tolist() == [0.5, 1.0]
        assert loss.adversarial.item() == pytest.approx(sum(losses) / 2)
        assert loss.stability.item() == pytest.approx(0.5 / 2 * (4 + 9))
        assert loss.total.item() == pytest.approx(sum(losses) / 2 + 0.5 / 2 * (4 + 9))

    def test_divergence_is_that_of_the_clean_from_the_adversarial(self):
        """KL(p_clean ‖ p_adv), as PyTorch's kl_div and MART have it."""
        logits, clean_logits, labels = batch(9, 5, dtype=torch.float64)
        loss = stability_loss(logits, clean_logits, labels, lam=1.0, weighting="uniform", distance="kl")
        terms = F.kl_div(F.log_softmax(logits, 1), F.softmax(clean_logits, 1), reduction="batchmean")
        torch.testing.assert_close(loss.stability, terms)

    @pytest.mark.parametrize(
        ("m", "top", "expected"),
        [(30, 0.1, 3), (100, 0.07, 7), (128, 0.1, 13), (10, 1e-12, 1), (7, 1.0, 7), (1, 0.5, 1), (3, 0.34, 2)],
    )
    def test_the_top_share_of_a_batch(self, m, top, expected):
        loss = stability_loss(*batch(m, 4), lam=0.1, weighting="top", top=top)
        assert loss.weights.sum() == expected
        highest = (loss.losses - loss.clean_losses).topk(expected).indices
        assert (loss.weights[highest] == 1).all()

    @pytest.mark.parametrize(("weighting", "distance"), CHOICES)
    @pytest.mark.parametrize("output", [0, 1, 2])
    def test_its_gradients_are_autograd_s(self, weighting, distance, output):
        logits, clean_logits, labels = batch(5, 4, dtype=torch.float64)

        def result(z: Tensor, clean: Tensor) -> Tensor:
            return stability_loss(z, clean, labels, lam=0.7, weighting=weighting, top=0.4, distance=distance)[
                output
            ]

        assert torch.autograd.gradcheck(result, (logits.requires_grad_(), clean_logits.requires_grad_()))

    @pytest.mark.parametrize(("weighting", "distance"), CHOICES)
    def test_the_gradients_it_returns_are_autograd_s(self, weighting, distance):
        logits, clean_logits, labels = batch(6, 4, dtype=torch.float64)
        choices = {"weighting": weighting, "top": 0.5, "distance": distance}
        found = run("reference", (logits, clean_logits, labels), **choices)
        leaves = (logits.requires_grad_(), clean_logits.requires_grad_())
        loss = stability_loss(*leaves, labels, lam=0.1, **choices)
        of_adversarial, none = torch.autograd.grad(loss.adversarial, leaves, allow_unused=True, retain_graph=True)
        assert none is None
        expected = (of_adversarial, *torch.autograd.grad(loss.stability, leaves))
        for actual, wanted in zip(found[6:], expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-15)

    def test_infinite_logarithms_of_classes_without_mass_do_not_count(self):
        logits, clean_logits, labels = batch(3, 4, dtype=torch.float64)
        without = stability_loss(logits[:, :3], clean_logits[:, :3], labels % 3, lam=1.0, distance="kl")
        for masked in (logits, clean_logits):
            masked[:, 3] = -math.inf
        leaf = clean_logits.requires_grad_()
        loss = stability_loss(logits, leaf, labels % 3, lam=1.0, distance="kl")
        torch.testing.assert_close(loss.stability, without.stability)
        loss.stability.backward()
        assert leaf.grad is not None and leaf.grad.isfinite().all()


@on_every_device
@on_every_backend
class TestBackends:
    @pytest.mark.parametrize(("weighting", "distance"), CHOICES)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_results_are_the_reference_s(self, shape, weighting, distance, backend, device):
        arguments = batch(*shape, device=device)
        choices = {"weighting": weighting, "distance": distance}
        found = run(backend, arguments, **choices)
        assert_close(found, run("reference", exact(arguments), **choices))
        assert_weights_of_own_losses(found, weighting)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("distance", ["l2", "kl"])
    def test_half_precision_is_computed_in_float32(self, distance, dtype, backend, device):
        arguments = batch(19, 11, device=device, dtype=dtype)
        assert_close(
            run(backend, arguments, distance=distance), run("reference", exact(arguments), distance=distance)
        )

    @pytest.mark.parametrize("distance", ["l2", "kl"])
    def test_special_values(self, distance, backend, device):
        """Each pair of special values in a row of its own, the label on either, one row beside them ordinary."""
        pairs = torch.tensor(list(itertools.product(SPECIALS, SPECIALS)), dtype=torch.float32)
        logits = torch.cat((pairs, pairs, torch.randn(1, 2)))
        clean_logits = torch.randn(logits.shape)
        labels = torch.arange(len(logits)) // len(pairs) % 2
        for z, clean in ((logits, clean_logits), (clean_logits, logits), (logits, logits.clone())):
            arguments = (z.to(device), clean.to(device), labels.to(device))
            found, expected = (
                run(backend, arguments, distance=distance),
                run("reference", (z, clean, labels), distance=distance),
            )
            assert torch.equal(found[3].cpu().isnan(), expected[3].isnan())
            assert torch.equal(found[3].cpu().isinf(), expected[3].isinf())
            assert_weights_of_own_losses(found, "linear")
            for actual, wanted in zip(found[3:5] + found[6:7], expected[3:5] + expected[6:7], strict=True):
                torch.testing.assert_close(actual.cpu(), wanted, rtol=1e-5, atol=1e-6, equal_nan=True)

    @pytest.mark.parametrize("distance", ["l2", "kl"])
    def test_gradients_of_infinite_gaps(self, distance, backend, device):
        """Ranks that are the same in both, so that every gradient is comparable."""
        logits = torch.tensor(
            [[0.0, -math.inf, 1.0], [-math.inf, 2.0, 0.5], [0.1, 0.2, math.nan], [1.0, 2.0, 30.0]]
        )
        clean = torch.tensor([[0.0, 0.5, 1.0], [-math.inf, 0.0, 1.0], [0.3, 0.2, 0.1], [-math.inf, 120.0, -90.0]])
        labels = torch.tensor([0, 1, 2, 1])
        found = run(backend, tuple(x.to(device) for x in (logits, clean, labels)), distance=distance)
        expected = run("reference", (logits, clean, labels), distance=distance)
        for actual, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(actual.cpu(), wanted, rtol=1e-5, atol=1e-6, equal_nan=True)

    @pytest.mark.parametrize("weighting", ["linear", "top"])
    def test_ties_keep_their_order(self, weighting, backend, device):
        """Three rows by turns: AV is one of three values; and NaN before all."""
        logits, clean_logits, labels = (tensor.repeat(21, *[1] * (tensor.dim() - 1)) for tensor in batch(3, 4))
        logits[[5, 40]] = math.nan
        arguments = (logits.to(device), clean_logits.to(device), labels.to(device))
        found = run(backend, arguments, weighting=weighting, top=0.5)
        assert torch.equal(
            found[5].cpu(), run("reference", (logits, clean_logits, labels), weighting=weighting, top=0.5)[5]
        )
        assert found[5][[5, 40]].tolist() == (
            [1.0, pytest.approx(1 - 1 / 63)] if weighting == "linear" else [1.0, 1.0]
        )

    def test_lambda_in_a_tensor(self, backend, device):
        arguments = batch(8, 3, device=device)
        expected = run("reference", exact(arguments), lam=0.3)
        for shape, dtype in (((), torch.float32), ((1,), torch.float64)):
            assert_close(run(backend, arguments, lam=torch.full(shape, 0.3, dtype=dtype, device=device)), expected)

    def test_other_strides(self, backend, device):
        arguments = batch(12, 7, device=device)
        expected = run(backend, arguments)
        strided = (
            arguments[0].t().contiguous().t(),
            arguments[1].repeat(1, 2)[:, :7],
            arguments[2].repeat(2)[:12],
        )
        assert all(torch.equal(a, b) for a, b in zip(run(backend, strided), expected, strict=True))

    def test_a_label_that_is_no_class_is_nan_and_reads_nothing(self, backend, device):
        logits, clean_logits, labels = batch(4, 3, device=device)
        labels[1], labels[2] = -100, 2**40
        losses = run(backend, (logits, clean_logits, labels))[3].cpu()
        assert losses.isnan().tolist() == [False, True, True, False]

    @pytest.mark.parametrize("distance", ["l2", "kl"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_gradients_through_the_public_function(self, dtype, distance, backend, device, monkeypatch):
        monkeypatch.setenv("FASTISEAT_KERNELS", backend)
        logits, clean_logits, labels = batch(11, 5, device=device, dtype=dtype)
        leaves = (logits.requires_grad_(), clean_logits.requires_grad_())
        mixes = ((1, 0, 0), (0, 2, 0), (0, 0, 3), (0.5, -1, 2))
        units = 32 if dtype == torch.float32 else 2
        doubles = tuple(leaf.detach().cpu().double().requires_grad_() for leaf in leaves)
        monkeypatch.delenv("FASTISEAT_KERNELS")
        precise = stability_loss(*doubles, labels.cpu(), lam=0.1, distance=distance)
        monkeypatch.setenv("FASTISEAT_KERNELS", backend)
        for mix in mixes:
            loss = stability_loss(*leaves, labels, lam=0.1, distance=distance)
            total, wanted = (
                sum(k * term for k, term in zip(mix, x[:3], strict=True) if k) for x in (loss, precise)
            )
            found = torch.autograd.grad(total, leaves, allow_unused=True)
            expected = torch.autograd.grad(wanted, doubles, allow_unused=True, retain_graph=True)
            for actual, exactly in zip(found, expected, strict=True):
                assert (actual is None) == (exactly is None)
                if actual is not None:
                    assert actual.dtype == dtype
                    tolerance = units * torch.finfo(dtype).eps * exactly.abs().max().item()
                    torch.testing.assert_close(actual.cpu().double(), exactly, rtol=0, atol=tolerance)

    def test_a_term_that_is_not_used_can_not_spoil_the_gradient(self, backend, device, monkeypatch):
        monkeypatch.setenv("FASTISEAT_KERNELS", backend)
        logits, clean_logits, labels = batch(3, 4, device=device)
        clean_logits[0, 0] = math.inf
        stability_loss(logits.requires_grad_(), clean_logits, labels, lam=0.1).adversarial.backward()
        assert logits.grad is not None and logits.grad.isfinite().all()

    def test_differentiable_once(self, backend, device, monkeypatch):
        monkeypatch.setenv("FASTISEAT_KERNELS", backend)
        logits, clean_logits, labels = batch(3, 4, device=device)
        loss = stability_loss(logits.requires_grad_(), clean_logits, labels, lam=0.1)
        assert not any(result.requires_grad for result in loss[3:])
        with pytest.raises(UserError, match="differentiable once"):
            torch.autograd.grad(loss.total, logits, create_graph=True)

    def test_registered_op(self, backend, device, monkeypatch):
        monkeypatch.setenv("FASTISEAT_KERNELS", backend)
        logits, clean_logits, labels = batch(5, 3, device=device)
        arguments = (logits.requires_grad_(), clean_logits.requires_grad_(), labels, 0.1, "linear", 0.1, "kl")
        torch.library.opcheck(torch.ops.fastiseat.stability_loss.default, arguments)
        lam = torch.tensor(0.1, device=device)
        torch.library.opcheck(torch.ops.fastiseat.stability_loss.default, arguments, {"lam_tensor": lam})

    def test_compiled_whole(self, backend, device, monkeypatch):
        monkeypatch.setenv("FASTISEAT_KERNELS", backend)
        logits, clean_logits, labels = batch(5, 3, device=device)
        compiled = torch.compile(
            lambda z, clean: stability_loss(z, clean, labels, lam=0.1).total, fullgraph=True, backend="aot_eager"
        )
        gradients = []
        for function in (compiled, lambda z, clean: stability_loss(z, clean, labels, lam=0.1).total):
            leaves = (logits.detach().requires_grad_(), clean_logits.detach().requires_grad_())
            gradients.append(torch.autograd.grad(function(*leaves), leaves))
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.gpu
@on_every_backend
def test_a_captured_graph_sees_lambda_and_logits_change(backend):
    arguments, lam = batch(50, 10, device="cuda"), torch.tensor(0.1, device="cuda")
    run(backend, arguments, lam=lam)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run(backend, arguments, lam=lam)
    lam.fill_(0.7)
    arguments[0].copy_(torch.randn(50, 10))
    graph.replay()
    assert_close(found, run("reference", exact(arguments), lam=0.7))


class TestRegisteredReference:
    """What a kernel that fails leaves to the reference, which then runs below autograd."""

    @pytest.mark.parametrize(("weighting", "distance"), CHOICES)
    def test_gradients_in_float64(self, weighting, distance):
        logits, clean_logits, labels = batch(4, 3, dtype=torch.float64)

        def results(z: Tensor, clean: Tensor) -> tuple[Tensor, ...]:
            op = torch.ops.fastiseat.stability_loss.default
            return op(z, clean, labels, 0.7, weighting, 0.5, distance)[:3]

        assert torch.autograd.gradcheck(results, (logits.requires_grad_(), clean_logits.requires_grad_()))

    def test_after_a_kernel_has_failed(self, monkeypatch):
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("no launch")

        monkeypatch.delenv("FASTISEAT_KERNELS", raising=False)
        monkeypatch.setattr(_OP, "backends", (replace(BACKENDS["native"], run=fail),))
        for memory in ("_choices", "_broken"):
            monkeypatch.setattr(_OP, memory, {})
        logits, clean_logits, labels = batch(4, 3)
        with pytest.warns(RuntimeWarning, match="no launch"):
            stability_loss(logits.requires_grad_(), clean_logits, labels, lam=0.1).total.backward()
        double = logits.detach().double().requires_grad_()
        stability_loss(double, clean_logits.double(), labels, lam=0.1).total.backward()
        torch.testing.assert_close(logits.grad.double(), double.grad, rtol=1e-5, atol=1e-7)


class TestServing:
    def test_what_one_block_serves(self):
        unfit, native = (takes(Arguments)(each) for each in (limits.unfit_for_one_block, limits.unfit))
        assert not unfit(torch.empty(1024, 1000), *batch(1, 1)[1:], lam=0.1)
        for shape in ((1025, 2), (2, 1001)):
            assert "one block" in unfit(torch.empty(shape), *batch(1, 1)[1:], lam=0.1)
        assert not native(torch.empty(1025, 2), *batch(1, 1)[1:], lam=0.1)

    def test_a_subclass_goes_to_the_reference(self):
        class Wrapped(Tensor):
            pass

        arguments = batch(4, 3)
        wrapped = arguments[0].as_subclass(Wrapped)
        assert "no plain tensor" in limits.unfit(Arguments(wrapped, *arguments[1:], lam=0.1))
        expected = stability_loss(*arguments, lam=0.1)
        torch.testing.assert_close(stability_loss(wrapped, *arguments[1:], lam=0.1).total, expected.total)

    @pytest.mark.parametrize("shape", [(700, 33), (2000, 5)])
    @pytest.mark.parametrize("distance", ["l2", "kl"])
    def test_threads_change_nothing_on_a_cpu(self, shape, distance, monkeypatch):
        arguments = batch(*shape)
        results = []
        for threads in (1, 2, 3):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            results.append(run("native", arguments, distance=distance))
        assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))

    @given(data=st.data())
    @settings(max_examples=50)
    def test_random_calls_of_the_native_code(self, data):
        m, num_classes = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
        spread = data.draw(st.sampled_from([1e-3, 1.0, 10.0, 60.0]))
        torch.manual_seed(data.draw(st.integers(0, 2**31)))
        weighting, distance = data.draw(st.sampled_from(CHOICES))
        arguments = batch(m, num_classes, spread=spread)
        found = run("native", arguments, weighting=weighting, distance=distance)
        assert_weights_of_own_losses(found, weighting)
        expected = run("reference", exact(arguments), weighting=weighting, distance=distance)
        if torch.equal(found[5].double(), expected[5].float().double()):
            # A divergence near 0 is a difference of numbers that are not.
            torch.testing.assert_close(found[1].double(), expected[1], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(found[2].double(), expected[2], rtol=1e-4, atol=2e-7)


def test_triton_compiles_for_cards_that_are_not_here(tmp_path):
    """The interpreter takes Python that the compiler refuses."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, HERE / "triton_loss_compile.py"],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(3)}, r"shape \(3,\); floats of shape \(m, C\)"),
        ({"logits": torch.zeros(0, 3)}, "at least one sample"),
        ({"logits": torch.zeros(2, 3, dtype=torch.int64)}, "logits are torch.int64"),
        ({"clean_logits": torch.zeros(2, 4)}, r"clean_logits are .* \(2, 4\); they must match"),
        ({"clean_logits": torch.zeros(2, 3, dtype=torch.float64)}, "clean_logits are torch.float64"),
        ({"labels": torch.zeros(2, dtype=torch.int32)}, "labels are torch.int32"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"labels are .* \(3,\)"),
        ({"labels": torch.zeros(2, dtype=torch.int64, device="meta")}, "labels lie on meta"),
        ({"labels": torch.tensor([0, 3])}, "labels reach from 0 to 3; .* 0 … 2"),
        ({"labels": torch.tensor([-100, 1])}, "labels reach from -100"),
        ({"weighting": "rank"}, "weighting"),
        ({"distance": "l1"}, "distance"),
        ({"top": 0.0}, r"top=0.0 must lie in \(0, 1\]"),
        ({"top": math.nan}, "top=nan"),
        ({"lam": math.inf}, "lam=inf must be finite"),
        ({"lam": torch.zeros(2)}, r"lam is torch.float32 of shape \(2,\)"),
        ({"lam": torch.tensor(1)}, "lam is torch.int64"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    zeros = torch.zeros(2, 3)
    arguments = {"logits": zeros, "clean_logits": zeros, "labels": torch.tensor([0, 1]), "lam": 0.1} | change
    with pytest.raises(UserError, match=message):
        stability_loss(**arguments)


def test_importing_the_op_imports_no_triton():
    code = "import sys, fastiseat.kernels; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert importlib.util.find_spec("fastiseat.kernels.stability_loss.triton") is not None
