"""What a device cannot do, found out before it fails in the middle of a measurement."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from fastiseat.bench.steps.memory import largest_batch, peak_bytes
from fastiseat.bench.steps.variants import DEVICES, Variant
from fastiseat.config import Config
from fastiseat.engine.precision import precision_for_amp
from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.memory import free_bytes

# On a GPU large enough to outweigh the libraries' workspaces, which need not grow with the batch.
_PROBES = {"cpu": (2, 4), "cuda": (16, 48)}


def require_supported(variants: Iterable[Variant], device: torch.device) -> None:
    """:class:`UserError` for a variant that computes in a dtype which the device lacks, or runs on another kind."""
    for variant in variants:
        if problem := _elsewhere(variant.engine, device) or _lacks(variant.precision, device):
            raise UserError(f"{variant.name}: {problem}")


def _elsewhere(engine: str, device: torch.device) -> str:
    wanted = DEVICES.get(engine)
    if not wanted or wanted == device.type:
        return ""
    return f"engine {engine} records on a {wanted} device, this is {device}; use engine eager"


def _lacks(precision: str, device: torch.device) -> str:
    if device.type == "cuda":
        if precision != "bf16" or precision_for_amp(device) == "bf16":
            return ""
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        name = torch.cuda.get_device_name(device)
        return f"{name} (compute capability {capability}) has no bf16, which came with 8.0; use fp16"
    if precision == "fp16":
        return "PyTorch's fp16 convolutions crawl on a CPU; use full or bf16"
    if precision == "bf16" and precision_for_amp(device) == "full":
        return "this CPU has no bf16 instructions and would emulate them, tens of times slower; use full"
    return ""


def require_fit(
    variant: Variant,
    model: nn.Module,
    config: Config,
    shape: tuple[int, int, int],
    num_classes: int,
    device: torch.device,
) -> None:
    """:class:`UserError` where ISEAT's step on the config's batch would not fit, saying which would.

    Two small steps tell what an image takes: a machine out of memory may kill the process without a word.
    """

    def peak(batch_size: int) -> int:
        subject = variant.build(copy.deepcopy(model), config)
        x = torch.rand(batch_size, *shape, device=device)
        y = torch.arange(batch_size, device=device) % num_classes
        return peak_bytes(lambda: subject.step("iseat", x, y), device)

    probes = _PROBES[device.type]
    if device.type == "cuda":
        peak(probes[0])  # what the libraries keep from their first call on is no image's
    wanted, available = config.data.batch_size, free_bytes(device)
    fits = largest_batch(peak, available, probes=probes)
    if wanted > fits:
        raise UserError(
            f"batch_size={wanted}: {config.network.arch} at {shape[1]}×{shape[2]} takes more than the "
            f"{available / 2**30:.1f} GiB that are free on {device}; about {fits} images would fit"
        )
