"""The passes of an evaluation: the network's logits, and the gradient of a loss for its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastiseat.attacks.search.protocol import Ascent
from fastiseat.engine.accept import count_classes, layout_of
from fastiseat.engine.backward import grad
from fastiseat.engine.precision import FP16_ATTACK_SCALE, autocast, strict_float32
from fastiseat.models.answers import logits_of

# So many at a time on a CPU: the memory of larger tensors comes from the system anew, page by page, in every layer.
_CPU_PIXELS = 2**17


def pixels_of(model: nn.Module) -> Tensor:
    """(0,), of the dtype and on the device that images, δ and ε of attacks on ``model`` are computed in.

    float64 where its parameters are, float32 for all others: half precision would round x' out of the ball.
    """
    weight = next(model.parameters())
    return weight.new_empty(0, dtype=torch.float64 if weight.dtype == torch.float64 else torch.float32)


@dataclass(frozen=True, kw_only=True)
class EvaluationPasses:
    """Those of ``model`` in the mode that it is in, for x (m, C, H, W) of the dtype of :func:`pixels_of`.

    ``precision`` is ``full``, the parameters' own, ``bf16`` or ``fp16``; ``strict`` keeps TF32 out of ``full``. A model
    in half precision reads x in its own dtype: that of its first parameter. Logits and gradients come out in the dtype
    of x. Nothing waits for the device.
    """

    model: nn.Module
    precision: str = "full"
    strict: bool = True

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """(m, classes), without a gradient."""
        with self._arithmetic():
            if x.is_cpu and len(x) > (most := max(_CPU_PIXELS // x[0, 0].numel(), 1)):
                return torch.cat([self.forward(part) for part in x.split(most)])
            return self.forward(x)

    def ascent(self, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Ascent:
        """See :class:`fastiseat.attacks.search.protocol.Network`."""
        # A leaf: the search's next point must not hang on this one's graph.
        x = x.detach().requires_grad_()
        # Backwards of what autocast has cast run in half precision by themselves.
        with self._arithmetic(), torch.enable_grad(), autocast("full", x.device):
            logits = self.forward(x)
            losses = loss(logits)
            total = losses.sum()
            gradient = self._gradient(total, x)
        return Ascent(logits.detach(), losses.detach(), gradient)

    def _gradient(self, total: Tensor, x: Tensor) -> Tensor:
        """Zero where the network's answer does not hang on x by anything that can be differentiated."""
        if not total.requires_grad:
            return torch.zeros_like(x)
        if self.precision == "fp16":
            return _scaled(total, x)
        if self._dtype != torch.float16:
            return _plain(total, x)
        # No float32 passes to turn to where the scale is too much for a model that is in fp16 itself.
        scaled = _scaled(total, x, again=True)
        fits = scaled.flatten(1).isfinite().all(1).view(-1, 1, 1, 1)
        # By sample and without an `if`: which of them overflowed, the host would wait to know.
        return torch.where(fits, scaled, _plain(total, x))

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        if self.strict and self.precision == "full":
            with strict_float32():
                yield
        else:
            yield

    def forward(self, x: Tensor) -> Tensor:
        """(m, classes), with a gradient where one is recorded; TF32 as it is allowed around."""
        # What an autocast around us has cast would be read as it is at each replay of a recording.
        with autocast(self.precision, x.device, cache=False):
            # A copy: another's module may write to its input.
            read = x.to(self._dtype).clone(memory_format=layout_of(self.model))
            logits = logits_of(self.model(read))
        count_classes(logits, len(x))
        return logits.to(x.dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype


def _plain(total: Tensor, x: Tensor, *, again: bool = False) -> Tensor:
    gradient: Tensor | None = grad(total, [x], retain_graph=again)[0]
    return torch.zeros_like(x) if gradient is None else gradient


def _scaled(total: Tensor, x: Tensor, *, again: bool = False) -> Tensor:
    return _plain(total * FP16_ATTACK_SCALE, x, again=again) / FP16_ATTACK_SCALE
