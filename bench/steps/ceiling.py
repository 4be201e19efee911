"""What the device at hand could do at best: measured rates, and what a step must compute and move."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fastiseat.bench.rounds import by_turns
from fastiseat.bench.steps.variants import PassCounts
from fastiseat.engine.precision import DTYPES, strict_float32

# A product is measured at this size where it takes no longer than a round; a small device gets a smaller one.
_SIDES = {"cuda": 8192, "cpu": 1536}
_COPIED = {"cuda": 2**30, "cpu": 2**28}
_BN_READS = PassCounts(3, 5, 0)
"""Times that training-mode BatchNorm moves its tensor in a pass: statistics, then in and out; both again for the
gradient, over two tensors."""


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """Rates of a device, measured."""

    flops: dict[str, float]
    """FLOP/s of a large matrix product, by precision; ``full`` is float32 without TF32."""
    bandwidth: float
    """Bytes/s that a large copy reads and writes."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one image costs in one forward pass of a network."""

    flops: int
    """Of its convolutions and products, a multiplication and an addition each."""
    bn_elements: int
    """Elements that pass through BatchNorm."""


def measure(device: torch.device, precisions: tuple[str, ...], *, rounds: int, seconds: float) -> Ceiling:
    """Time matrix products and a copy, by turns; the best round counts, as other work only slows them."""
    side = _SIDES[device.type]
    actions: dict[str, Callable[[], object]] = {
        precision: _product(side, DTYPES[precision] or torch.float32, device) for precision in precisions
    }
    source = torch.zeros(_COPIED[device.type] // 4, device=device)
    target = torch.empty_like(source)
    actions["copy"] = lambda: target.copy_(source)
    timings = by_turns(actions, device=device, rounds=rounds, seconds=seconds, warm_up=2)
    return Ceiling(
        flops={precision: 2 * side**3 / min(timings[precision].seconds) for precision in precisions},
        bandwidth=2 * source.numel() * 4 / min(timings["copy"].seconds),
    )


def _product(side: int, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    # Random: zeros switch few transistors, and a card clocks higher on them.
    a, b = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))

    def run() -> Tensor:
        with strict_float32():
            return a @ b

    return run


def work(model: nn.Module, shape: tuple[int, int, int]) -> Work:
    """Count one image's forward pass, without computing it."""
    images, elements = 2, []
    counted = copy.deepcopy(model).to("meta").train()
    for module in counted.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_hook(lambda _module, inputs, _output: elements.append(inputs[0].numel()))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        counted(torch.empty(images, *shape, device="meta"))
    return Work(flops=counter.get_total_flops() // images, bn_elements=sum(elements) // images)


def floor(cost: Work, passes: PassCounts, batch_size: int, ceiling: Ceiling, precision: str) -> float:
    """Seconds a step at the measured rates: products at the matrix rate, then BatchNorm at the copy's bandwidth.

    A model, not a bound: a kernel that keeps a tensor on the chip moves less.
    """
    moved = sum(p * reads for p, reads in zip(passes, _BN_READS, strict=True)) * cost.bn_elements
    dtype = DTYPES[precision] or torch.float32
    return batch_size * (
        passes.units * cost.flops / ceiling.flops[precision] + moved * dtype.itemsize / ceiling.bandwidth
    )


def share(cost: Work, passes: PassCounts, batch_size: int, seconds: float, rate: float) -> float:
    """The part of the matrix rate that the step's necessary products make up."""
    return passes.units * cost.flops * batch_size / seconds / rate
