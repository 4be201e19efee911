"""The eager baseline under ``torch.compile``: as most write it, and as one who knows its traps would.

Nothing is compiled before the first step. Both compute the clean logits on the proxy whenever λ ≠ 0, LSI included:
a CUDA graph has no room for a forward that waits for its backward while ten others run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastiseat.bench.baselines.eager import EagerBaseline


class CompiledNaive(EagerBaseline):
    """``torch.compile(model)`` and no more.

    A compiled backward is fixed when it is compiled, and these parameters require a gradient: each step of the
    attack computes those of the weights too, although it asks for the input's alone.
    """

    keeps_clean_graph = False

    def __init__(
        self, model: nn.Module, *, backend: str | Callable[..., Any] = "inductor", **settings: Any
    ) -> None:
        """``backend`` of ``torch.compile``; the other settings are those of :class:`EagerBaseline`."""
        super().__init__(model, **settings)
        self.run_model = self.run_attack = torch.compile(self.model, backend=backend)
        self.run_proxy = torch.compile(self.proxy, backend=backend)


class CompiledCareful(EagerBaseline):
    """CUDA graphs by ``mode="reduce-overhead"``, and an attack on detached parameters.

    The backward that is compiled for these computes the input's gradient and no other.
    """

    keeps_clean_graph = False

    def __init__(
        self, model: nn.Module, *, backend: str | Callable[..., Any] = "inductor", **settings: Any
    ) -> None:
        """``backend`` other than ``inductor`` drops the mode; other settings are those of :class:`EagerBaseline`."""
        super().__init__(model, **settings)
        self.cuda_graphs = backend == "inductor"  # the other backends know no modes
        mode = "reduce-overhead" if self.cuda_graphs else None
        # Detached once: they share θ's memory, which only changes in place.
        self.frozen = {name: weight.detach() for name, weight in self.model.named_parameters()}
        for weight in self.frozen.values():
            torch._dynamo.mark_static_address(weight)  # no copy into the graph's own memory at each call
        self.run_model = torch.compile(self.model, backend=backend, mode=mode)
        self.run_proxy = torch.compile(self.proxy, backend=backend, mode=mode)
        self._frozen_forward = torch.compile(self._call_frozen, backend=backend, mode=mode)
        self.run_attack = lambda x: self._frozen_forward(self.frozen, x)

    def step(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """As :meth:`EagerBaseline.step`; the memory of the last step's CUDA graphs is free to be reused."""
        if self.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        return super().step(x, y)

    def _call_frozen(self, weights: dict[str, Tensor], x: Tensor) -> Any:
        return functional_call(self.model, weights, (x,))
