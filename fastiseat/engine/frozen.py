"""The networks that a method holds beside the one in training: seen in eval mode, and never changed."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from fastiseat.engine.passes import Passes
from fastiseat.engine.recording.guards import ModuleGuards
from fastiseat.engine.restore import modes_restored


class Frozen:
    """Their passes, in the step's precision, and what a recording takes for granted about them."""

    def __init__(self, *, precision: str, device: torch.device) -> None:
        self.precision, self.device = precision, device
        self._passes: dict[nn.Module, Passes] = {}
        self._guards: dict[nn.Module, ModuleGuards] = {}

    def __call__(self, network: nn.Module, x: Tensor) -> Tensor:
        """Logits (m, C) in the dtype of ``x``, without a graph; each submodule's train/eval flag is as before."""
        if network not in self._passes:
            self._passes[network] = Passes(network, precision=self.precision, device=self.device)
        # Eval mode for the pass alone: its owner may train it elsewhere, in the mode that it was left in.
        with modes_restored(network), torch.no_grad():
            network.eval()
            return self._passes[network](x)

    def state(self, networks: Sequence[nn.Module]) -> Hashable:
        """Equal to that of an earlier call where their code would do the same to the same memory."""
        return tuple([self._around(network).state() for network in networks])

    def tensors(self, networks: Sequence[nn.Module]) -> list[Tensor]:
        """All that they read."""
        return [tensor for network in networks for tensor in self._around(network).tensors()]

    def _around(self, network: nn.Module) -> ModuleGuards:
        if network not in self._guards:
            self._guards[network] = ModuleGuards(network)
        return self._guards[network]
