"""``pgd_step``'s backends against its reference: bit for bit in the L∞ ball, to the last place in the L2 ball."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastiseat.kernels.core.signature import takes
from fastiseat.kernels.core.triton_support import interpreted
from fastiseat.kernels.pgd_step import _OP, Arguments, native, reference

EPS, STEP = 8 / 255, 2 / 255
SPECIALS = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 1.0, 0.5, -0.25]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NORMS = ["linf", "l2"]
NUMBERS = [
    torch.tensor(EPS),
    torch.tensor([EPS]),
    torch.tensor(EPS).double(),
    torch.full((6,), EPS).bfloat16()[::2],
]
by_reference, by_native = takes(Arguments)(reference.pgd_step), takes(Arguments)(native.pgd_step)
CONTIGUOUS, CHANNELS_LAST = torch.contiguous_format, torch.channels_last

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

Run = Callable[..., tuple[Tensor, ...]]
# Triton's interpreter computes with numpy, which remarks on what NaN and infinity come to.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")


@pytest.fixture(
    params=[
        ("native", "cpu"),
        ("triton", "cpu"),
        pytest.param(("native", "cuda"), marks=pytest.mark.gpu),
        pytest.param(("triton", "cuda"), marks=pytest.mark.gpu),
    ],
    ids="-".join,
)
def run(request) -> Run:
    """A backend on a device, from and to the CPU; refuses what the backend does not serve."""
    name, device = request.param
    if (name, device, interpreted()) == ("triton", "cpu", False):
        pytest.skip("where there is a card Triton compiles")
    backend = next(backend for backend in _OP.backends if backend.name == name)
    assert backend.unsupported(device, torch.float32) == ""

    def call(*arguments: Tensor, **more: Any) -> tuple[Tensor, ...]:
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in more.items()}
        there = [tensor.to(device) for tensor in arguments]
        given = Arguments(*there, **moved)
        assert backend.unfit(given) == ""
        return tuple(result.cpu() for result in backend.run(given))

    return call


def batch(*shape: int, grad: torch.dtype = torch.float32, formats=(CONTIGUOUS,) * 3) -> tuple[Tensor, ...]:
    """x, δ and g, their pixels often saturated and their gradients often 0."""
    images = torch.rand(shape).mul(1.4).sub(0.2).clamp(0, 1)
    delta = (2 * torch.rand(shape) - 1) * EPS
    gradient = torch.randn(shape).to(grad)
    gradient[torch.rand(shape) < 0.1] = 0
    return tuple(
        tensor.contiguous(memory_format=layout)
        for tensor, layout in zip((images, delta, gradient), formats, strict=True)
    )


def bits(tensor: Tensor) -> Tensor:
    """The numbers' bits, every NaN as one: which NaN comes out differs from one processor to the next."""
    if not tensor.is_floating_point():
        return tensor
    number = {4: torch.int32, 2: torch.int16}[tensor.element_size()]
    return torch.where(tensor.isnan(), torch.full_like(tensor, math.nan), tensor).view(number)


def steps_in_memory(tensor: Tensor) -> list[int]:
    """The strides, less those of dimensions of size 1, which mean nothing."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def assert_same(run: Run, arguments: tuple[Tensor, ...], **more: Any) -> None:
    expected = by_reference(*arguments, **more)
    found = run(*arguments, **more)
    for name, want, have in zip(("delta", "x_adv", "nan_grad"), expected, found, strict=True):
        assert (have.dtype, have.shape) == (want.dtype, want.shape), name
        assert steps_in_memory(have) == steps_in_memory(want), name
        if more.get("norm") == "l2" and name != "nan_grad":
            rtol = 2 * torch.finfo(have.dtype).eps
            torch.testing.assert_close(have, want, rtol=rtol, atol=2**-23, equal_nan=True, msg=name)
        else:
            assert torch.equal(bits(have), bits(want)), name


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "shape", [(1,), (7,), (5, 1), (1, 33), (3, 5, 7), (2, 3, 5, 7), (127, 2, 2), (1, 3, 31, 33), (2, 3, 16, 16)]
)
def test_shapes(run, shape, norm):
    arguments = batch(*shape)
    assert_same(run, arguments, eps=EPS, step_size=STEP, norm=norm)
    numbers = {"eps": torch.rand(shape[0]) * 0.1, "step_size": torch.rand(shape[0]) * 0.1}
    assert_same(run, arguments, norm=norm, **numbers)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("images", [CONTIGUOUS, CHANNELS_LAST])
@pytest.mark.parametrize("grad", [CONTIGUOUS, CHANNELS_LAST])
def test_dtypes_and_layouts(run, norm, dtype, images, grad):
    arguments = batch(2, 3, 5, 7, grad=dtype, formats=(images, images, grad))
    assert_same(run, arguments, eps=EPS, step_size=torch.tensor([STEP, 0.0]), norm=norm)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(2, 1, 4, 6), (3, 2, 1, 1), (1, 5, 1, 3)])
def test_layouts_that_are_one(run, shape, norm):
    arguments = batch(*shape, formats=(CHANNELS_LAST, CONTIGUOUS, CHANNELS_LAST))
    assert_same(run, arguments, eps=EPS, step_size=STEP, norm=norm)


@pytest.mark.parametrize("norm", NORMS)
def test_five_dimensions(run, norm):
    arguments = batch(2, 3, 2, 3, 4, formats=(torch.channels_last_3d, CONTIGUOUS, CONTIGUOUS))
    assert_same(run, arguments, eps=EPS, step_size=STEP, norm=norm)


@pytest.mark.parametrize("norm", NORMS)
def test_delta_and_gradient_may_lie_anyhow(run, norm):
    images, delta, grad = batch(3, 2, 4, 5)
    spread = torch.stack((delta, delta), dim=-1)[..., 0]
    for other in (spread, delta.contiguous(memory_format=CHANNELS_LAST)):
        assert_same(run, (images, other, grad[:1].expand(3, -1, -1, -1)), eps=EPS, step_size=STEP, norm=norm)
        assert_same(
            run, (images, other, grad.transpose(2, 3).contiguous().transpose(2, 3)), eps=EPS, step_size=STEP
        )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("offset", [1, 2])
def test_addresses_that_are_no_multiple_of_sixteen(run, norm, offset):
    arguments = tuple(torch.cat((torch.ones(offset), tensor))[offset:] for tensor in batch(40))
    assert_same(run, tuple(tensor.view(5, 8) for tensor in arguments), eps=EPS, step_size=STEP, norm=norm)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(0,), (0, 3, 4, 4), (2, 0, 4, 4)])
def test_empty(run, shape, norm):
    assert_same(run, batch(*shape), eps=EPS, step_size=STEP, norm=norm)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_in_tensors(run, number, norm):
    assert_same(run, batch(3, 2, 5), eps=number, step_size=STEP, norm=norm)
    assert_same(run, batch(3, 2, 5), eps=EPS, step_size=number, norm=norm)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [(0, 0), (1, 1100), (2, 599), None])
def test_a_nan_in_the_gradient_is_told(run, norm, dtype, place):
    arguments = batch(3, 1201, grad=dtype)
    if place is not None:
        arguments[2][place] = -math.nan
    assert by_reference(*arguments, eps=EPS, step_size=STEP)[2].item() == (place is not None)
    assert_same(run, arguments, eps=EPS, step_size=STEP, norm=norm)


@pytest.mark.parametrize("constant", [0.0, -0.25, math.nan, math.inf, 1e-45, 3e38])
def test_every_combination_of_special_values(run, constant):
    """All triples of special values, at once in one long sample and as samples of one element."""
    triples = torch.cartesian_prod(*[torch.tensor(SPECIALS)] * 3)
    columns = tuple(column.contiguous() for column in triples.unbind(1))
    for arguments in (tuple(column[None] for column in columns), tuple(c[:, None] for c in columns)):
        # ε = 0 has a test of its own: there torch.clamp itself turns -0.0 into either zero.
        assert_same(run, arguments, eps=EPS, step_size=constant)
        if constant:
            assert_same(run, arguments, eps=constant, step_size=STEP)


@pytest.mark.parametrize("shape", [(40, 1), (3, 40)])
def test_a_ball_of_no_size(run, shape):
    arguments = batch(*shape)
    arguments[0][:, 0] = -0.0
    for numbers in ({"eps": torch.zeros(shape[0])}, {"eps": 0.0}):
        for norm in NORMS:
            expected = by_reference(*arguments, step_size=STEP, norm=norm, **numbers)
            found = run(*arguments, step_size=STEP, norm=norm, **numbers)
            assert all(map(torch.equal, found, expected))
            assert not found[0].any()


GRADIENTS = {
    "zero": [0.0, -0.0, 0.0],
    "NaN": [1.0, math.nan, 0.0],
    "infinite": [1.0, -math.inf, 0.0],
    "NaN and infinite": [math.nan, math.inf, 0.0],
    "smallest": [1e-45, 0.0, -1e-45],
    "largest": [3e38, -3e38, 3e38],
    "both": [3e38, 1e-45, 1.0],
    "plain": [3.0, -4.0, 0.0],
}


@pytest.mark.parametrize("constant", [0.0, 1e-45, 0.1, 3e38, math.inf, math.nan])
def test_special_gradients_in_the_l2_ball(run, constant):
    grad = torch.tensor(list(GRADIENTS.values()))
    for value in (0.0, 0.2, 3e38, math.nan):
        arguments = torch.full_like(grad, 0.25), torch.full_like(grad, value), grad
        assert_same(run, arguments, eps=constant, step_size=0.05, norm="l2")
        assert_same(run, arguments, eps=0.3, step_size=constant, norm="l2")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_float64(run, norm, dtype):
    """The same step without float32's roundings: only those of α, ε and the results are left."""
    arguments = batch(4, 3, 9, 9, grad=dtype)
    more = {"eps": torch.rand(4) * 0.1, "step_size": torch.rand(4) * 0.1, "norm": norm}
    exact = by_reference(*(tensor.double() for tensor in arguments), **more)
    found = run(*arguments, **more)
    for have, want in zip(found[:2], exact[:2], strict=True):
        torch.testing.assert_close(have.double(), want, rtol=0, atol=2**-23)


@pytest.mark.parametrize("norm", NORMS)
def test_results_are_new_and_arguments_as_they_were(run, norm):
    arguments = batch(2, 3, 4, 4)
    before = [tensor.clone() for tensor in arguments]
    found = run(*arguments, eps=EPS, step_size=STEP, norm=norm)
    assert all(map(torch.equal, arguments, before))
    assert len({tensor.data_ptr() for tensor in (*arguments, *found)}) == len(arguments) + len(found)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(9, 3, 32, 32), (129, 3, 31, 33), (1, 3, 224, 223)])
def test_native_results_do_not_depend_on_threads(shape, norm, monkeypatch):
    formats = (CONTIGUOUS, CONTIGUOUS, CHANNELS_LAST)
    arguments = batch(*shape, grad=torch.bfloat16, formats=formats)
    arguments[2][-1, -1, -1, -1] = math.nan
    more = {"eps": EPS, "step_size": STEP, "norm": norm}
    assert_same(by_native, arguments, **more)
    one = None
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
        found = by_native(*arguments, **more)
        one = one or found
        assert all(torch.equal(bits(a), bits(b)) for a, b in zip(found, one, strict=True))


@given(data=st.data())
@settings(max_examples=60)
def test_random_calls_of_native_code(data):
    shape = data.draw(st.tuples(*map(st.integers, [1] * 4, [4, 3, 5, 9])))
    numbers = st.floats(width=32) | st.sampled_from(SPECIALS)
    # ε = 0 has a test of its own: there torch.clamp itself turns -0.0 into either zero.
    constants = st.floats(0, 2, width=32, exclude_min=True) | st.just(math.nan)
    layouts = st.sampled_from([CONTIGUOUS, CHANNELS_LAST])
    size = math.prod(shape)
    arguments = tuple(
        torch.tensor(data.draw(st.lists(numbers, min_size=size, max_size=size)))
        .view(shape)
        .contiguous(memory_format=data.draw(layouts))
        for _ in range(3)
    )
    one = st.lists(constants, min_size=shape[0], max_size=shape[0]).map(torch.tensor)
    more = {"eps": data.draw(constants | one), "step_size": data.draw(constants | one)}
    assert_same(by_native, arguments, **more)


def test_triton_compiles_for_cards_that_are_not_here():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("triton_pgd_compile.py")
    result = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("True") == 2 * 2 * 2
