"""Borrowing a user's module and random numbers for one step, and handing both back as they were."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def counter_seed(seed: int, counter: int) -> int:
    """A 63-bit seed for the ``counter``-th step of a run: no random state has to survive between steps."""
    digest = hashlib.blake2b(f"{seed}:{counter}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Leave each submodule's train/eval flag as found; flags are set one by one, hooks of ``train()`` unseen."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Global random numbers (all that dropout can draw from) seeded for the block and then put back."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            index = torch.cuda.current_device() if device.index is None else device.index
            torch.cuda.default_generators[index].manual_seed(seed)
        yield
