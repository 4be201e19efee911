"""What each op is called with to be measured: arguments as training has them, and the bytes that they move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastiseat.bench.inputs import SEED, Images
from fastiseat.bench.kernels.bn_act_calls import STAGE_CALLS, stages
from fastiseat.bench.kernels.call import Call, nhwc
from fastiseat.kernels import Segments
from fastiseat.kernels.augment import arguments as augment
from fastiseat.kernels.idbh import arguments as idbh
from fastiseat.kernels.idbh.policies import POLICIES
from fastiseat.kernels.pgd_step import arguments as pgd_step
from fastiseat.kernels.sgd import arguments as sgd
from fastiseat.kernels.stability_loss import arguments as stability_loss
from fastiseat.kernels.weight_perturb import arguments as weight_perturb

Make = Callable[[Images, int, torch.device], Call | None]


def pgd_step_call(images: Images, batch_size: int, device: torch.device) -> Call:
    """A step of the attack in the middle of its ball."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (batch_size, *images.shape)
    x, delta, grad = (nhwc(torch.rand(shape, generator=generator)).to(device) for _ in range(3))
    return Call(
        arguments=pgd_step.Arguments(x, (2 * delta - 1) * 8 / 255, grad - 0.5, eps=8 / 255, step_size=2 / 255),
        moved=5 * x.numel() * x.element_size(),
        tolerance=1e-6,
    )


def augment_call(images: Images, batch_size: int, device: torch.device) -> Call:
    """Flip and crop of the paper's recipe."""
    return _augmentation(images, batch_size, device, augment.Arguments)


def idbh_call(images: Images, batch_size: int, device: torch.device) -> Call | None:
    """The policy of CIFAR-10's recipe, which needs colours and room to crop."""
    name = "cifar10-weak"
    if images.channels != 3 or images.side < POLICIES[name].crop_shift[1]:
        return None
    return _augmentation(images, batch_size, device, partial(idbh.Arguments, policy=name))


def _augmentation(images: Images, batch_size: int, device: torch.device, arguments: Callable[..., Any]) -> Call:
    generator = torch.Generator().manual_seed(SEED)
    shape = (batch_size, *images.shape[1:], images.channels)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator).to(device)
    return Call(
        arguments=arguments(pixels, torch.arange(batch_size, device=device), seed=SEED, epoch=1),
        moved=pixels.numel() * (1 + 4),
        tolerance=1e-6,
    )


def stability_loss_call(images: Images, batch_size: int, device: torch.device) -> Call:
    """ISEAT's objective in the middle of training."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (batch_size, images.num_classes)
    logits, clean_logits = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    return Call(
        arguments=stability_loss.Arguments(
            logits, clean_logits, torch.arange(batch_size, device=device) % images.num_classes, lam=0.1
        ),
        moved=5 * logits.numel() * logits.element_size(),
        tolerance=1e-5,
    )


def sgd_call(images: Images, batch_size: int, device: torch.device) -> Call:
    """ISEAT's update: momentum, two gradients, and the decay at the perturbed weights."""
    weights, buffer, *gradients = _flat(5, device)
    segments = _segments(device)
    return Call(
        arguments=sgd.Arguments(
            *(weights, buffer, gradients[0], segments),
            lr=0.1,
            momentum=0.9,
            weight_decay=5e-4,
            second_grad=gradients[1],
            perturbation_grad=gradients[2],
            ratio=torch.full((len(segments.perturbed),), 0.01, device=device),
        ),
        moved=7 * weights.numel() * weights.element_size(),
        tolerance=1e-6,
        written=(weights, buffer),
    )


def weight_perturb_call(images: Images, batch_size: int, device: torch.device) -> Call:
    """All weights at once, each tensor by its norms."""
    weights, grad, out = _flat(3, device)
    return Call(
        arguments=weight_perturb.Arguments(weights, grad, _segments(device), gamma=0.007, out=out),
        moved=5 * weights.numel() * weights.element_size(),
        tolerance=1e-5,
        written=(out,),
    )


def _segments(device: torch.device) -> Segments:
    """On a GPU a network of 17 million weights, which no cache holds."""
    sizes = [2 ** (20 if device.type == "cuda" else 16)] * 16
    return Segments.of(sizes, perturbed=[True] * len(sizes), device=device)


def _flat(count: int, device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    length = _segments(device).num_elements
    return [torch.randn(length, generator=generator).to(device) for _ in range(count)]


CALLS: dict[str, Make] = {
    "augment": augment_call,
    "idbh": idbh_call,
    "pgd_step": pgd_step_call,
    "sgd": sgd_call,
    "stability_loss": stability_loss_call,
    "weight_perturb": weight_perturb_call,
}
"""What each op is called with, or None where it has no use for such images. Every op is here or in STAGE_CALLS."""


def calls(op: str, images: Images, batch_size: int, device: torch.device) -> Iterator[tuple[str, Call]]:
    """All calls that an op is measured with, each with its name for a table."""
    if op in STAGE_CALLS:
        for stage in stages(images, device):
            yield f"{op}@{'x'.join(map(str, stage))}", STAGE_CALLS[op](stage, batch_size, device)
    elif (call := CALLS[op](images, batch_size, device)) is not None:
        yield op, call
