"""``pgd_step``: the reference against the formula, the native code against the reference, bit for bit."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.kernels import pgd_step
from fastiseat.kernels.native import library
from fastiseat.kernels.pgd_step import native, reference

EPS, STEP = 8 / 255, 2 / 255
SHAPES = [(1,), (7,), (5, 1), (1, 33), (3, 5, 7), (2, 3, 5, 7), (9, 3, 32, 32), (129, 3, 31, 33)]
SPECIALS = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 1.0, 0.5, -0.25]

needs_native = pytest.mark.skipif(library().handle is None, reason=library().missing)


def batch(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    images, noise, grad = torch.rand(shape), torch.rand(shape), torch.randn(shape)
    return images.to(dtype), ((2 * noise - 1) * EPS).to(dtype), grad.to(dtype)


def bits(tensor: Tensor) -> Tensor:
    """The numbers' bits, every NaN as one: which NaN comes out differs from one processor to the next."""
    return torch.where(tensor.isnan(), torch.full_like(tensor, math.nan), tensor).view(torch.int32)


def steps_in_memory(tensor: Tensor) -> list[int]:
    """The strides, less those of dimensions of size 1, which mean nothing."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def assert_same_bits(arguments: tuple[Tensor, ...], **constants: float | Tensor) -> None:
    assert native.unfit(*arguments, **constants) == ""
    for expected, actual in zip(
        reference.pgd_step(*arguments, **constants), native.pgd_step(*arguments, **constants), strict=True
    ):
        assert steps_in_memory(actual) == steps_in_memory(expected)
        assert torch.equal(bits(actual), bits(expected))


def test_formula_by_hand():
    images = torch.tensor([[0.5, 0.01, 0.99, 0.5]])
    delta = torch.tensor([[0.0, 0.0, 0.02, 0.03]])
    grad = torch.tensor([[3.0, -0.1, 1e-9, 0.0]])
    new_delta, x_adv = pgd_step(images, delta, grad, eps=0.03, step_size=0.02)
    torch.testing.assert_close(x_adv, torch.tensor([[0.52, 0.0, 1.0, 0.53]]))
    torch.testing.assert_close(new_delta, torch.tensor([[0.02, -0.01, 0.01, 0.03]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_stays_in_the_ball_and_in_the_image(dtype):
    images, delta, grad = batch((4, 3, 9, 9), dtype)
    before = [tensor.clone() for tensor in (images, delta, grad)]
    new_delta, x_adv = pgd_step(images, delta, grad, eps=EPS, step_size=10 * EPS)
    assert new_delta.dtype == x_adv.dtype == dtype
    assert new_delta.abs().max() <= EPS + torch.finfo(dtype).eps
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert torch.equal(new_delta, x_adv - images)
    assert all(torch.equal(tensor, old) for tensor, old in zip((images, delta, grad), before, strict=True))


def test_a_zero_or_nan_gradient_moves_nothing():
    images, delta, grad = torch.full((1, 4), 0.5), torch.full((1, 4), 0.25), torch.zeros(1, 4)
    grad[0, 1:] = torch.tensor([-0.0, math.nan, -math.nan])
    new_delta, _ = pgd_step(images, delta, grad, eps=1.0, step_size=0.1)
    assert torch.equal(new_delta, delta)


def test_each_sample_has_its_own_radius_and_step():
    images, delta, grad = torch.full((3, 2), 0.5), torch.zeros(3, 2), torch.ones(3, 2)
    new_delta, _ = pgd_step(
        images, delta, grad, eps=torch.tensor([0.25, 0.125, 0.0]), step_size=torch.tensor([0.125, 0.25, 0.25])
    )
    assert torch.equal(new_delta, torch.tensor([[0.125, 0.125], [0.125, 0.125], [0.0, 0.0]]))


@pytest.mark.parametrize("constant", [EPS, torch.tensor(EPS), torch.tensor(EPS, dtype=torch.float64)])
def test_one_number_in_any_form(constant):
    arguments = batch((3, 2, 4, 4))
    expected = reference.pgd_step(*arguments, eps=torch.full((3,), EPS), step_size=torch.full((3,), EPS))
    for actual, wanted in zip(pgd_step(*arguments, eps=constant, step_size=constant), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_outputs_have_the_images_memory_format():
    images, delta, grad = batch((2, 3, 4, 5))
    images = images.to(memory_format=torch.channels_last)
    expected = reference.pgd_step(images.contiguous(), delta, grad, eps=EPS, step_size=STEP)
    for actual, wanted in zip(pgd_step(images, delta, grad, eps=EPS, step_size=STEP), expected, strict=True):
        assert actual.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(actual, wanted)


def test_the_reference_serves_what_the_native_code_cannot():
    images, delta, grad = batch((4, 6, 8))
    expected = pgd_step(images, delta, grad, eps=EPS, step_size=STEP)
    strided = [torch.stack((tensor, tensor), dim=-1)[..., 0] for tensor in (images, delta, grad)]
    assert native.unfit(*strided, eps=EPS, step_size=STEP)
    for actual, wanted in zip(pgd_step(*strided, eps=EPS, step_size=STEP), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_differentiable_where_an_argument_requires_grad():
    images, delta, grad = batch((2, 3))
    images.requires_grad_()
    assert native.unfit(images, delta, grad, eps=EPS, step_size=STEP)
    _, x_adv = pgd_step(images, delta, grad, eps=EPS, step_size=STEP)
    x_adv.sum().backward()
    assert images.grad is not None
    with torch.no_grad():
        assert not native.unfit(images, delta, grad, eps=EPS, step_size=STEP)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 3, dtype=torch.uint8)}, "dtype torch.uint8"),
        ({"images": torch.tensor(0.5)}, "no dimensions"),
        ({"delta": torch.zeros(3)}, r"delta is \(3,\)"),
        ({"grad": torch.zeros(2, 3, dtype=torch.bfloat16)}, "grad is .* torch.bfloat16"),
        ({"eps": torch.zeros(3)}, r"eps is \(3,\); give one number, or one a sample: \(2,\)"),
        ({"step_size": torch.zeros(2, 1)}, "step_size is"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    zeros = torch.zeros(2, 3)
    arguments = {"images": zeros, "delta": zeros, "grad": zeros, "eps": EPS, "step_size": STEP} | change
    with pytest.raises(UserError, match=message):
        pgd_step(**arguments)


@needs_native
class TestNativeIsBitIdentical:
    @pytest.mark.parametrize("threads", [1, 2, 3])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_shapes(self, shape, threads, monkeypatch):
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        arguments = batch(shape)
        assert_same_bits(arguments, eps=EPS, step_size=STEP)
        assert_same_bits(arguments, eps=torch.rand(shape[0]) * 0.1, step_size=torch.rand(shape[0]) * 0.1)

    @pytest.mark.parametrize("shape", [(0,), (0, 3, 4, 4), (2, 0, 4, 4)])
    def test_empty(self, shape):
        assert_same_bits(batch(shape), eps=EPS, step_size=STEP)

    @pytest.mark.parametrize("shape", [(4, 3, 8, 8), (3, 1, 5, 5), (1, 3, 1, 7)])
    def test_channels_last(self, shape):
        arguments = tuple(tensor.to(memory_format=torch.channels_last) for tensor in batch(shape))
        assert_same_bits(arguments, eps=torch.rand(shape[0]) * 0.1, step_size=STEP)

    def test_channels_last_3d(self):
        arguments = tuple(x.to(memory_format=torch.channels_last_3d) for x in batch((2, 3, 4, 5, 6)))
        assert_same_bits(arguments, eps=EPS, step_size=STEP)

    @pytest.mark.parametrize("constant", [0.0, -0.25, math.nan, math.inf, 1e-45, 3e38])
    def test_every_combination_of_special_values(self, constant):
        """All triples of special values, at once in one long sample and as samples of one element."""
        triples = torch.cartesian_prod(*[torch.tensor(SPECIALS)] * 3)
        columns = tuple(column.contiguous() for column in triples.unbind(1))
        for arguments in (tuple(column[None] for column in columns), tuple(c[:, None] for c in columns)):
            assert_same_bits(arguments, eps=EPS, step_size=constant)
            assert_same_bits(arguments, eps=constant, step_size=STEP)

    @pytest.mark.parametrize("shape", [(40, 1), (3, 40)])
    def test_a_ball_of_no_size(self, shape):
        arguments = batch(shape)
        arguments[0][:, 0] = -0.0
        constants = {"eps": torch.zeros(shape[0]), "step_size": STEP}
        for expected, actual in zip(
            reference.pgd_step(*arguments, **constants), native.pgd_step(*arguments, **constants), strict=True
        ):
            assert torch.equal(actual, expected)

    @given(data=st.data())
    def test_random_calls(self, data):
        shape = data.draw(st.tuples(*map(st.integers, [1] * 4, [4, 3, 5, 9])))
        numbers = st.floats(width=32) | st.sampled_from(SPECIALS)
        # ε = 0 has a test of its own: there torch.clamp itself turns -0.0 into either zero.
        constants = st.floats(0, 2, width=32, exclude_min=True) | st.just(math.nan)
        size = math.prod(shape)
        arguments = tuple(
            torch.tensor(data.draw(st.lists(numbers, min_size=size, max_size=size))).view(shape) for _ in range(3)
        )
        if data.draw(st.booleans()):
            arguments = tuple(tensor.to(memory_format=torch.channels_last) for tensor in arguments)
        one = st.lists(constants, min_size=shape[0], max_size=shape[0]).map(torch.tensor)
        assert_same_bits(arguments, eps=data.draw(constants | one), step_size=data.draw(constants | one))
