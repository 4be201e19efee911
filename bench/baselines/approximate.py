"""The eager step with an approximate direction of ν: what ours of the same kind is held to. Timed is none of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastiseat.bench.baselines.eager import EagerBaseline


class Approximate(EagerBaseline):
    """ν from the attack's last step, from the first half of the batch, or from the step before."""

    def __init__(self, model: nn.Module, *, awp_gradient: str, **settings: Any) -> None:
        """``awp_gradient`` as in :class:`fastiseat.config.AWP`; other settings are those of :class:`EagerBaseline`."""
        super().__init__(model, **settings)
        self.awp_gradient = awp_gradient
        self._last_input = Tensor()
        self._last_gradients: list[Tensor | None] = [None for _ in self.model.parameters()]

    def _input_gradient(self, x: Tensor, y: Tensor, *, keep_graph: bool) -> tuple[Tensor, Tensor]:
        self._last_input = x
        return super()._input_gradient(x, y, keep_graph=keep_graph)

    def _weight_perturbation(self, x_adv: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
        if self.awp_gradient == "previous-step":
            return self._nu(self._last_gradients)
        if self.awp_gradient == "last-attack-step":
            return super()._weight_perturbation(self._last_input, y)
        half = (len(y) + 1) // 2
        return super()._weight_perturbation(x_adv[:half], y[:half])

    def _add_gradients_of_proxy(self) -> None:
        # So far they are those at θ+ν alone.
        self._last_gradients = [None if w.grad is None else w.grad.clone() for w in self.model.parameters()]
        super()._add_gradients_of_proxy()
