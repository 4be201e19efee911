"""What ``bn_act`` and its kin are called with: the activations of a PreActResNet-18's stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastiseat.bench.inputs import SEED, Images
from fastiseat.bench.kernels.call import Call, nhwc
from fastiseat.kernels.bn_act.arguments import Eval, EvalBackward, Train, TrainBackward

Stage = tuple[int, int, int]
"""Channels, height, width."""

_EPS = 1e-5
# PyTorch sums a variance in float32 and is itself 7e-6 away from float64 at 128 images, further at more.
_TOLERANCE = 1e-4
_STAGES = ((64, 1), (128, 2), (256, 4), (512, 8))
"""Channels, and by what the images' side is divided."""


def stages(images: Images, device: torch.device) -> list[Stage]:
    """All on a GPU, where each has its own trouble; the first alone elsewhere, where size is all that counts."""
    sides = [(channels, max(1, images.side // divisor)) for channels, divisor in _STAGES]
    return [(channels, side, side) for channels, side in sides[: None if device.type == "cuda" else 1]]


def bn_act_call(stage: Stage, batch_size: int, device: torch.device) -> Call:
    """With a residual sum."""
    a, b = _activations(2, stage, batch_size, device)
    return Call(
        arguments=Train(a, b, *_affine(stage, device)[:2], eps=_EPS),
        moved=5 * a.numel() * a.element_size(),
        tolerance=_TOLERANCE,
    )


def bn_act_backward_call(stage: Stage, batch_size: int, device: torch.device) -> Call:
    """Its gradient, with one that comes through the sum."""
    s, dy, ds = _activations(3, stage, batch_size, device)
    weight, bias, *_ = _affine(stage, device)
    s = _off_the_edge(s, weight, bias, *_statistics(s))

    def forward(s: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.batch_norm(s, None, None, weight, bias, training=True, eps=_EPS).relu()

    return Call(
        arguments=TrainBackward(dy, ds, s, weight, bias, *_statistics(s)),
        moved=6 * s.numel() * s.element_size(),
        tolerance=_TOLERANCE,
        pytorch=_autograd(forward, dy, ds, s, weight, bias),
    )


def bn_act_eval_call(stage: Stage, batch_size: int, device: torch.device) -> Call:
    """The same layers with their running statistics."""
    a, b = _activations(2, stage, batch_size, device)
    moved = 4 * a.numel() * a.element_size()
    return Call(arguments=Eval(a, b, *_affine(stage, device), eps=_EPS), moved=moved, tolerance=_TOLERANCE)


def bn_act_eval_backward_call(stage: Stage, batch_size: int, device: torch.device) -> Call:
    """What an attack in evaluation mode asks for: no gradient of the weights."""
    s, dy, ds = _activations(3, stage, batch_size, device)
    weight, bias, mean, var = _affine(stage, device)
    s = _off_the_edge(s, weight, bias, mean, (var + _EPS).rsqrt())

    def forward(s: Tensor) -> Tensor:
        return F.batch_norm(s, mean, var, weight, bias, training=False, eps=_EPS).relu()

    return Call(
        arguments=EvalBackward(dy, ds, s, weight, bias, mean, var, eps=_EPS, sums=False),
        moved=4 * s.numel() * s.element_size(),
        tolerance=_TOLERANCE,
        pytorch=_autograd(forward, dy, ds, s),
    )


def _autograd(forward: Callable[..., Tensor], dy: Tensor, ds: Tensor, *inputs: Tensor) -> Callable[..., Any]:
    """PyTorch's backward pass of ``forward``, which is run once; the first input has other uses, with ``ds``."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    ends = forward(*leaves), leaves[0]
    return lambda _: torch.autograd.grad(ends, leaves, (dy, ds), retain_graph=True)


def _statistics(s: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and inverse root of the variance."""
    var, mean = torch.var_mean(s, (0, 2, 3), correction=0)
    return mean, (var + _EPS).rsqrt()


def _off_the_edge(s: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """``s`` without values at the ReLU's edge: there a rounding decides whether a gradient passes."""
    mean, slope, bias = (x[:, None, None] for x in (mean, weight * rstd, bias))
    return s + 0.01 * (((s - mean) * slope + bias).abs() < 1e-4)


def _activations(count: int, stage: Stage, batch_size: int, device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    return [nhwc(torch.randn((batch_size, *stage), generator=generator)).to(device) for _ in range(count)]


def _affine(stage: Stage, device: torch.device) -> list[Tensor]:
    """Weight, bias, mean, and a variance or its inverse root."""
    generator = torch.Generator().manual_seed(SEED)
    weight, bias, mean, var = (torch.rand(stage[0], generator=generator) for _ in range(4))
    return [x.to(device) for x in (weight + 0.5, bias - 0.5, mean - 0.5, var + 0.5)]


STAGE_CALLS: dict[str, Callable[[Stage, int, torch.device], Call]] = {
    "bn_act": bn_act_call,
    "bn_act_backward": bn_act_backward_call,
    "bn_act_eval": bn_act_eval_call,
    "bn_act_eval_backward": bn_act_eval_backward_call,
}
"""By op."""
