"""Borrowing a user's module and random numbers for one step, and handing both back as they were."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastiseat.fusion.turns import taking_turns


def counter_seed(seed: int, counter: int) -> int:
    """A 63-bit seed for the ``counter``-th step of a run: no random state has to survive between steps."""
    # Of both numbers together: seed + counter would give run 1's second step the numbers of run 2's first.
    digest = hashlib.blake2b(f"{seed}:{counter}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Leave each submodule's train/eval flag as found; flags are set one by one, hooks of ``train()`` unseen."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        # Not by train(), which a user's module may override to do more than set flags.
        for module, training in modes:
            module.training = training


@contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Global random numbers (all that dropout can draw from) seeded for the block and then put back.

    They are the whole process's: other threads wait for their turn.
    """
    cuda = device.type == "cuda"
    with taking_turns(), torch.random.fork_rng(devices=[device] if cuda else []):
        # Not torch.manual_seed, which seeds the generators of all GPUs, and only this one's is put back.
        torch.default_generator.manual_seed(seed)
        if cuda:
            index = torch.cuda.current_device() if device.index is None else device.index
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


@contextmanager
def fastest_convolutions(device: torch.device) -> Iterator[None]:
    """cuDNN tries all its algorithms at the first call of each shape, unless determinism is asked for."""
    cudnn = torch.backends.cudnn
    if device.type != "cuda" or cudnn.deterministic or torch.are_deterministic_algorithms_enabled():
        yield
        return
    with taking_turns():
        found = cudnn.benchmark, cudnn.benchmark_limit
        try:
            cudnn.benchmark, cudnn.benchmark_limit = True, 0
            yield
        finally:
            cudnn.benchmark, cudnn.benchmark_limit = found


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Deterministic algorithms in the block if ``wanted``; the caller's settings afterwards."""
    cudnn = torch.backends.cudnn
    found = torch.get_deterministic_debug_mode(), cudnn.deterministic, cudnn.benchmark
    try:
        if wanted:
            torch.use_deterministic_algorithms(True)
            cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        torch.set_deterministic_debug_mode(found[0])
        cudnn.deterministic, cudnn.benchmark = found[1:]


class Rewind:
    """The way back to the random numbers from here on, for a pass that is computed a second time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._state = random_state(device)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Draw them again in the block; what comes after it is drawn as if the block had not been."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            # The CPU's too: a network on a GPU may draw there as well.
            torch.set_rng_state(self._state[0])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(self._state[1], self.device)
            yield


def random_state(device: torch.device) -> list[Tensor]:
    """Of torch's global generators: the CPU's, then that of a CUDA device."""
    state = [torch.get_rng_state()]
    return [*state, torch.cuda.get_rng_state(device)] if device.type == "cuda" else state
