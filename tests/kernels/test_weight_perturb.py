"""``weight_perturb``: the reference against the formula, each backend against the reference."""

from __future__ import annotations

import math
from importlib import import_module

import flat_buffers as flat
import pytest
import torch
from flat_buffers import BACKENDS, DTYPES, PERTURBED
from torch import Tensor
from triton_compile import compile_elsewhere

from fastiseat.errors import UserError
from fastiseat.kernels import weight_perturb
from fastiseat.kernels.core import dispatch

# Triton's interpreter computes by numpy, which warns of what is meant here.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

GAMMA = 0.007
NORMS = ["tensor", "global"]
by_reference = flat.reference_of("weight_perturb")


def outputs(weights: Tensor, split: int, dtype: torch.dtype) -> dict[str, Tensor | None]:
    """``out`` and ``out_full``, the latter None where there is nothing left for it."""
    rest = len(weights) - split
    out_full = weights.new_full((rest,), math.nan) if rest else None
    return {"out": torch.full((split,), math.nan, dtype=dtype, device=weights.device), "out_full": out_full}


def call(function, weights, grad, *, split=None, dtype=torch.float32, **numbers):
    """(ratio, θ+ν in one piece), on the CPU."""
    table = flat.segments(device=weights.device.type)
    results = outputs(weights, len(weights) if split is None else split, dtype)
    ratio = function(weights, grad, table, **numbers, **results)
    pieces = [
        results["out"].to(weights.dtype),
        *([results["out_full"]] if results["out_full"] is not None else []),
    ]
    return ratio.cpu(), torch.cat(pieces).cpu()


def assert_close(found: Tensor, expected: Tensor, ulps: float, dtype: torch.dtype = torch.float32) -> None:
    torch.testing.assert_close(found, expected, rtol=ulps * torch.finfo(dtype).eps, atol=1e-30, equal_nan=True)


def assert_sum(
    found: Tensor, expected: Tensor, theta: Tensor, *, dtype: torch.dtype, arithmetic=torch.float32
) -> None:
    """θ+ν, a few roundings of its terms off, which may cancel, and one to ``dtype``."""
    theta, found, expected = theta.cpu().double(), found.double(), expected.double()
    terms = theta.abs() + (expected - theta).abs()
    allowed = 4 * torch.finfo(arithmetic).eps * terms + torch.finfo(dtype).eps * expected.abs()
    allowed = allowed + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert ((found - expected).abs() <= allowed).all()


def by_formula(weights: Tensor, grad: Tensor, norm: str) -> tuple[list[float], Tensor]:
    """Segment by segment, in float64 numbers."""
    everything = [
        torch.cat([flat.of(x.double(), i) for i, moves in enumerate(PERTURBED) if moves]).norm()
        for x in (weights, grad)
    ]
    ratios, out = [], weights.double().clone()
    for number, moves in enumerate(PERTURBED):
        theta, g = flat.of(out, number), flat.of(grad.double(), number)
        norms = (theta.norm(), g.norm()) if norm == "tensor" else everything
        ratios.append(float(GAMMA * norms[0] / (norms[1] + 1e-20)) if moves else 0.0)
        theta += ratios[-1] * g
    return ratios, out


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_reference_is_the_formula(dtype, norm):
    weights, grad = flat.buffer(1, dtype), flat.buffer(2, dtype, scale=1e-3)
    before = weights.clone(), grad.clone()
    ratios, expected = by_formula(weights, grad, norm)
    out = torch.empty_like(weights)
    ratio = weight_perturb(weights, grad, flat.segments(), gamma=GAMMA, norm=norm, out=out)
    assert ratio.dtype == dtype
    assert_close(ratio, torch.tensor(ratios, dtype=dtype), 4, dtype)
    assert_sum(out, expected, weights, dtype=dtype, arithmetic=dtype)
    assert torch.equal(weights, before[0])
    assert torch.equal(grad, before[1])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("split", [0, 3072, None])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_backends(backend, device, dtype, split, norm):
    run = flat.run_of("weight_perturb", backend, device)
    weights, grad = flat.buffer(3).to(device), flat.buffer(4, dtype, scale=1e-2).to(device)
    settings = {"split": split, "dtype": dtype, "gamma": GAMMA, "norm": norm}
    ratio, out = call(run, weights, grad, **settings)
    wanted_ratio, wanted = call(by_reference, weights.double(), grad, **settings)
    assert_close(ratio, wanted_ratio.float(), 4)
    first = len(out) if split is None else split
    assert_sum(out[:first], wanted[:first], weights[:first], dtype=dtype)
    assert_sum(out[first:], wanted[first:], weights[first:], dtype=torch.float32)
    assert not out[~flat.inside()].any()


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("scales", [(1e-22, 1e-38), (1e-22, 1e-25), (1e20, 1e20), (1e18, 1e35)])
def test_squares_beyond_the_range_of_float32(backend, device, scales):
    run = flat.run_of("weight_perturb", backend, device)
    weights, grad = (flat.buffer(seed, scale=scale).to(device) for seed, scale in zip((5, 6), scales, strict=True))
    for norm in NORMS:
        found = call(run, weights, grad, gamma=GAMMA, norm=norm)
        expected = call(by_reference, weights, grad, gamma=GAMMA, norm=norm)
        assert expected[0].isfinite().all()
        assert (expected[0][:2] != 0).all()
        assert_close(found[0], expected[0], 4)
        assert_sum(found[1], expected[1], weights, dtype=torch.float32)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_what_is_not_finite_spreads_by_the_formula(backend, device, bad):
    run = flat.run_of("weight_perturb", backend, device)
    weights, grad = flat.buffer(7).to(device), flat.buffer(8).to(device)
    flat.of(grad, 0)[3], flat.of(grad, 2)[0], flat.of(grad, 4)[1:] = bad, bad, bad
    for norm in NORMS:
        found = call(run, weights, grad, gamma=GAMMA, norm=norm)
        for value, expected in zip(found, call(by_reference, weights, grad, gamma=GAMMA, norm=norm), strict=True):
            assert torch.equal(value.isnan(), expected.isnan())
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
        ratio, out = found
        assert not out[:1500].isfinite().all()
        for number in (2, 4):  # not perturbed
            assert ratio[number] == 0
            assert torch.equal(flat.of(out, number), flat.of(weights.cpu(), number))


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_zero_gradients_move_nothing(backend, device):
    run = flat.run_of("weight_perturb", backend, device)
    weights = flat.buffer(9).to(device)
    for norm in NORMS:
        _, out = call(run, weights, torch.zeros_like(weights), gamma=GAMMA, norm=norm)
        assert torch.equal(out, weights.cpu())


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_gamma_in_a_tensor(backend, device):
    run = flat.run_of("weight_perturb", backend, device)
    weights, grad = flat.buffer(1).to(device), flat.buffer(2).to(device)
    for norm in NORMS:
        expected = call(run, weights, grad, gamma=GAMMA, norm=norm)
        for gamma in (torch.tensor(GAMMA), torch.tensor([GAMMA])):
            found = call(run, weights, grad, gamma=gamma.to(device), norm=norm)
            assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_bits_do_not_depend_on_threads(threads, monkeypatch):
    sizes = [40_000, 3, 70_001]
    table = flat.segments(sizes, [True, False, True])
    weights, grad = torch.randn(2, table.num_elements)
    results = []
    for number in (threads, 1):
        monkeypatch.setattr(torch, "get_num_threads", lambda number=number: number)
        out = torch.empty_like(weights)
        ratio = flat.run_of("weight_perturb", "native", "cpu")(
            weights, grad, table, gamma=GAMMA, norm="tensor", out=out, out_full=None
        )
        results.append((ratio, out))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("many", ["blocks", "segments"])
def test_more_blocks_or_segments_than_one_turn_of_a_loop(backend, device, many, monkeypatch):
    run, count = flat.run_of("weight_perturb", backend, device), 300
    if backend == "triton":
        count = 20
        monkeypatch.setattr(import_module("fastiseat.kernels.weight_perturb.triton"), "_CHUNK", 16)
    sizes = [count * 1024] if many == "blocks" else [5] * count
    table = flat.segments(sizes, [True] * len(sizes), device)
    weights = torch.zeros(table.num_elements, device=device)
    weights[::1023] = 1.0
    out = torch.empty_like(weights)
    ratio = run(weights, 2 * weights, table, gamma=1.0, norm="global", out=out, out_full=None)
    assert_close(ratio, torch.full_like(ratio, 0.5), 2)
    assert_close(out, 2 * weights, 2)


def test_torch_library():
    weights, grad, table = flat.buffer(1), flat.buffer(2, torch.bfloat16), flat.segments()
    out, out_full = torch.zeros(3072, dtype=torch.bfloat16), torch.zeros(len(weights) - 3072)
    op = torch.ops.fastiseat.weight_perturb.default
    torch.library.opcheck(op, (weights, grad, *table, GAMMA, "tensor", out, out_full))
    torch.library.opcheck(op, (weights, grad, *table, 0.0, "global", weights.clone(), None, torch.tensor(GAMMA)))

    def step(theta, g):
        ratio = weight_perturb(theta, g, table, gamma=GAMMA, out=out, out_full=out_full)
        return ratio * 2, out + 1

    expected = step(weights, grad)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)(weights, grad)
    assert all(map(torch.equal, compiled, expected))


def test_the_public_function_takes_the_native_kernel(monkeypatch):
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    op = flat.op_named("weight_perturb")
    assert op.explain("cpu", torch.float32) == ("native", "")
    assert op.explain("cpu", torch.float64)[0] == "reference"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": torch.zeros(10)}, r"weights is of shape \(10,\); a contiguous buffer of \(9216,\)"),
        ({"weights": torch.zeros(9216).half()}, "weights are torch.float16; float32 or float64"),
        ({"grad": torch.zeros(9216, dtype=torch.int32)}, "grad is torch.int32; a floating dtype"),
        ({"gamma": torch.zeros(2)}, "gamma is torch.float32 of shape"),
        ({"norm": "layer"}, "unknown norm 'layer'"),
        ({"out": torch.zeros(9215)}, "out is of shape .* together have 9216 elements"),
        ({"out": torch.zeros(1000), "out_full": torch.zeros(8216)}, "in whole blocks of 1024"),
        ({"out": torch.zeros(1024), "out_full": torch.zeros(8192).half()}, "out_full is torch.float16"),
        ({"out": None}, "out is the memory of weights; give out a buffer of its own"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"weights": torch.zeros(9216), "grad": torch.zeros(9216), "gamma": 0.1, "out": torch.zeros(9216)}
    arguments |= change
    if arguments["out"] is None:
        arguments["out"] = arguments["weights"]
    with pytest.raises(UserError, match=message):
        weight_perturb(segments=flat.segments(), **arguments)


def test_triton_compiles_for_cards_that_are_not_here():
    types = {
        **dict.fromkeys(["weights", "ratio", "out_full", "gamma_tensor"], "*fp32"),
        **dict.fromkeys(["sums", "segment_sums"], "*fp64"),
        **dict.fromkeys(["block_segment", "first_block"], "*i32"),
        **dict.fromkeys(["out_blocks", "num_segments"], "i32"),
        "grad": "*bf16",
        "out": "*bf16",
        "perturbed": "*u8",
        "gamma": "fp32",
    }
    by_value = {name: kind for name, kind in types.items() if name != "gamma_tensor"}
    calls = [
        {"kernel": "_sum_blocks", "types": types, "constants": {"BLOCK": 1024}},
        {"kernel": "_make_ratios", "types": types, "constants": {"CHUNK": 1024}},
        {"kernel": "_make_global_ratio", "types": by_value, "constants": {"CHUNK": 1024}},
        {"kernel": "_write", "types": types, "constants": {"BLOCK": 1024}},
    ]
    made = compile_elsewhere("fastiseat.kernels.weight_perturb.triton", calls)
    assert len(made) == 2 * len(calls)
    assert all(each["cubin"] for each in made)
    for each in made:
        if each["kernel"] in ("_sum_blocks", "_write"):
            assert each["wide_accesses"] >= 2
        assert each["fused"] == 0
