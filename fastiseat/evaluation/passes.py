"""The passes of an evaluation: the network's logits, and the gradient of a loss for its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastiseat.attacks.search import Ascent
from fastiseat.engine.accept import layout_of
from fastiseat.engine.precision import FP16_ATTACK_SCALE, autocast, strict_float32

# So many at a time on a CPU: the memory of larger tensors comes from the system anew, page by page, in every layer.
_CPU_PIXELS = 2**17


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Those of ``model`` in the mode that it is in, for x (m, C, H, W) of its parameters' dtype.

    ``precision`` is ``full``, the parameters' own, ``bf16`` or ``fp16``; ``strict`` keeps TF32 out of ``full``. Logits
    and gradients come out in the dtype of x. Nothing waits for the device.
    """

    model: nn.Module
    precision: str = "full"
    strict: bool = True

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """(m, classes), without a gradient."""
        with self._arithmetic():
            if x.is_cpu and len(x) > (most := max(_CPU_PIXELS // x[0, 0].numel(), 1)):
                return torch.cat([self._forward(part) for part in x.split(most)])
            return self._forward(x)

    def ascent(self, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Ascent:
        """See :class:`fastiseat.attacks.search.Network`."""
        x = x.detach().requires_grad_()
        # Backwards of what autocast has cast run in half precision by themselves.
        with self._arithmetic(), torch.enable_grad(), autocast("full", x.device):
            logits = self._forward(x)
            losses = loss(logits)
            total = losses.sum()
            gradient = self._gradient(total, x)
        return Ascent(logits.detach(), losses.detach(), gradient)

    def _gradient(self, total: Tensor, x: Tensor) -> Tensor:
        """Zero where the network's answer does not hang on x by anything that can be differentiated."""
        if not total.requires_grad:
            return torch.zeros_like(x)
        scale = FP16_ATTACK_SCALE if self.precision == "fp16" else 1
        (gradient,) = torch.autograd.grad(total * scale, x, materialize_grads=True)
        return gradient / scale if scale != 1 else gradient

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        if self.strict and self.precision == "full":
            with strict_float32():
                yield
        else:
            yield

    def _forward(self, x: Tensor) -> Tensor:
        # What an autocast around us has cast would be read as it is at each replay of a recording.
        with autocast(self.precision, x.device, cache=False):
            logits: Tensor = self.model(x.contiguous(memory_format=layout_of(self.model)))
        return logits.to(x.dtype)
