"""``pgd_step``: the reference against its formulas, the function's arguments, and what PyTorch sees of the op."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.kernels import pgd_step
from fastiseat.kernels.core.signature import takes
from fastiseat.kernels.pgd_step import Arguments, PGDStep, arrays, reference

EPS, STEP = 8 / 255, 2 / 255
NORMS = ["linf", "l2"]
by_reference, unfit = takes(Arguments)(reference.pgd_step), takes(Arguments)(arrays.unfit)


def batch(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    images, noise, grad = torch.rand(shape), torch.rand(shape), torch.randn(shape)
    return images.to(dtype), ((2 * noise - 1) * EPS).to(dtype), grad.to(dtype)


def test_formula_by_hand():
    images = torch.tensor([[0.5, 0.01, 0.99, 0.5]])
    delta = torch.tensor([[0.0, 0.0, 0.02, 0.03]])
    grad = torch.tensor([[3.0, -0.1, 1e-9, 0.0]])
    step = pgd_step(images, delta, grad, eps=0.03, step_size=0.02)
    torch.testing.assert_close(step.x_adv, torch.tensor([[0.52, 0.0, 1.0, 0.53]]))
    torch.testing.assert_close(step.delta, torch.tensor([[0.02, -0.01, 0.01, 0.03]]))
    assert (step.nan_grad.dtype, step.nan_grad.shape, step.nan_grad.item()) == (torch.bool, (), False)


def test_formula_of_the_l2_ball_by_hand():
    images = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.5, 0.9], [0.5, 0.5]])
    delta = torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.0, 0.0], [0.1, -0.1]])
    grad = torch.tensor([[3.0, -4.0], [0.0, 2.0], [0.0, 5.0], [0.0, 0.0]])
    step = pgd_step(images, delta, grad, eps=0.3, step_size=torch.tensor([0.1, 0.4, 0.2, 0.2]), norm="l2")
    expected = torch.tensor([[0.06, -0.08], [0.18, 0.24], [0.0, 0.1], [0.1, -0.1]])
    torch.testing.assert_close(step.delta, expected)
    torch.testing.assert_close(step.x_adv, images + expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_stays_in_the_ball_and_in_the_image(dtype, norm):
    images, delta, grad = batch((4, 3, 9, 9), dtype)
    before = [tensor.clone() for tensor in (images, delta, grad)]
    step = pgd_step(images, delta, grad, eps=EPS, step_size=10 * EPS, norm=norm)
    assert step.delta.dtype == step.x_adv.dtype == dtype
    order, rounding = (math.inf, 1) if norm == "linf" else (2, 3 * 81)
    lengths = torch.linalg.vector_norm(step.delta.double().flatten(1), ord=order, dim=1)
    assert lengths.max() <= EPS + rounding * torch.finfo(dtype).eps
    assert step.x_adv.min() >= 0
    assert step.x_adv.max() <= 1
    assert torch.equal(step.delta, step.x_adv - images)
    assert all(torch.equal(tensor, old) for tensor, old in zip((images, delta, grad), before, strict=True))


def test_a_zero_or_nan_gradient_moves_nothing():
    images, delta, grad = torch.full((1, 4), 0.5), torch.full((1, 4), 0.25), torch.zeros(1, 4)
    grad[0, 1:] = torch.tensor([-0.0, math.nan, -math.nan])
    step = pgd_step(images, delta, grad, eps=1.0, step_size=0.1)
    assert torch.equal(step.delta, delta)
    assert step.nan_grad


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, -math.inf])
def test_a_sample_without_a_direction_is_only_projected_in_the_l2_ball(value):
    images, delta, grad = torch.full((2, 4), 0.5), torch.full((2, 4), 0.25), torch.ones(2, 4)
    grad[0] = torch.tensor([value, 0.0, 0.0, value])
    step = pgd_step(images, delta, grad, eps=0.25, step_size=0.1, norm="l2")
    torch.testing.assert_close(step.delta, torch.full((2, 4), 0.125))
    assert step.nan_grad == math.isnan(value)


def test_each_sample_has_its_own_radius_and_step():
    images, delta, grad = torch.full((3, 2), 0.5), torch.zeros(3, 2), torch.ones(3, 2)
    step = pgd_step(
        images, delta, grad, eps=torch.tensor([0.25, 0.125, 0.0]), step_size=torch.tensor([0.125, 0.25, 0.25])
    )
    assert torch.equal(step.delta, torch.tensor([[0.125, 0.125], [0.125, 0.125], [0.0, 0.0]]))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("constant", [EPS, torch.tensor(EPS), torch.tensor([EPS]), torch.tensor(EPS).double()])
def test_one_number_in_any_form(constant, norm):
    arguments = batch((3, 2, 4, 4))
    each = torch.full((3,), EPS)
    expected = by_reference(*arguments, eps=each, step_size=each, norm=norm)
    found = pgd_step(*arguments, eps=constant, step_size=constant, norm=norm)
    assert torch.equal(found.delta, expected[0])
    assert torch.equal(found.x_adv, expected[1])


def test_outputs_have_the_images_memory_format():
    images, delta, grad = batch((2, 3, 4, 5))
    images = images.to(memory_format=torch.channels_last)
    expected = by_reference(images.contiguous(), delta, grad, eps=EPS, step_size=STEP)
    step = pgd_step(images, delta, grad, eps=EPS, step_size=STEP)
    for actual, wanted in zip(step[:2], expected[:2], strict=True):
        assert actual.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(actual, wanted)


def test_the_reference_serves_what_the_native_code_cannot():
    images, delta, grad = batch((4, 6, 8))
    expected = pgd_step(images, delta, grad, eps=EPS, step_size=STEP)
    strided = [torch.stack((tensor, tensor), dim=-1)[..., 0] for tensor in (images, delta, grad)]
    assert unfit(*strided, eps=EPS, step_size=STEP)
    for actual, wanted in zip(pgd_step(*strided, eps=EPS, step_size=STEP), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_differentiable_where_an_argument_requires_grad():
    images, delta, grad = batch((2, 3))
    images.requires_grad_()
    assert unfit(images, delta, grad, eps=EPS, step_size=STEP)
    pgd_step(images, delta, grad, eps=EPS, step_size=STEP).x_adv.sum().backward()
    assert images.grad is not None
    with torch.no_grad():
        assert not unfit(images, delta, grad, eps=EPS, step_size=STEP)


@pytest.mark.parametrize("norm", NORMS)
def test_the_references_gradients(norm):
    arguments = batch((3, 2, 3), torch.float64)
    arguments[2][1] = 0.0  # in the L2 ball a sample that takes no step, on either side of the projection
    numbers = torch.tensor([0.02, 0.05, 1.0], dtype=torch.float64), torch.full((3,), 0.01, dtype=torch.float64)

    def run(images, delta, grad, eps, step_size):
        return by_reference(images, delta, grad, eps=eps, step_size=step_size, norm=norm)[:2]

    # Where g is 0 the step is not continuous in it.
    varied = (*arguments[:2], arguments[2].detach(), *numbers)
    for number, tensor in enumerate(varied):
        tensor.requires_grad_(number != 2)
    assert torch.autograd.gradcheck(run, varied)
    if norm == "l2":
        grad = batch((3, 2, 3), torch.float64)[2].requires_grad_()
        assert torch.autograd.gradcheck(lambda g: run(*arguments[:2], g, *numbers), grad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 3, dtype=torch.uint8)}, "dtype torch.uint8"),
        ({"images": torch.tensor(0.5)}, "no dimensions"),
        ({"delta": torch.zeros(3)}, r"delta is \(3,\)"),
        ({"delta": torch.zeros(2, 3, dtype=torch.bfloat16)}, "delta is .* torch.bfloat16"),
        ({"grad": torch.zeros(2, 4)}, r"grad is \(2, 4\)"),
        ({"grad": torch.zeros(2, 3, dtype=torch.int64)}, "grad is .* torch.int64.*a floating dtype"),
        ({"grad": torch.zeros(2, 3, device="meta")}, "grad lies on meta, images on cpu"),
        ({"eps": torch.zeros(3)}, r"eps is \(3,\); give one number, or one a sample: \(2,\)"),
        ({"eps": torch.zeros((), device="meta")}, "eps lies on meta"),
        ({"step_size": torch.zeros(2, 1)}, "step_size is"),
        ({"norm": "l1"}, "unknown norm 'l1'"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    zeros = torch.zeros(2, 3)
    arguments = {"images": zeros, "delta": zeros, "grad": zeros, "eps": EPS, "step_size": STEP} | change
    with pytest.raises(UserError, match=message):
        pgd_step(**arguments)


@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "linf"},
        {"norm": "l2"},
        {"norm": "linf", "eps_tensor": torch.ones(2)},
    ],
)
@pytest.mark.parametrize("strides", ["contiguous", "channels_last"])
def test_what_pytorch_sees_of_the_op(settings, strides):
    images, delta, grad = batch((2, 3, 4, 5))
    if strides == "channels_last":
        images = images.contiguous(memory_format=torch.channels_last)
    settings = {"eps": EPS, "step_size": STEP} | settings
    torch.library.opcheck(torch.ops.fastiseat.pgd_step.default, (images, delta, grad), settings)


def test_a_compiler_keeps_the_op_whole():
    arguments = batch((2, 3, 4, 5))
    settings = {"eps": torch.tensor(EPS), "step_size": STEP, "norm": "l2"}
    compiled = torch.compile(lambda *a: pgd_step(*a, **settings), fullgraph=True, backend="aot_eager")
    found = compiled(*arguments)
    assert isinstance(found, PGDStep)
    for actual, wanted in zip(found, pgd_step(*arguments, **settings), strict=True):
        assert torch.equal(actual, wanted)
