"""One start of an attack on one batch, up to the verdicts: what an engine runs call by call, or by a recording."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastiseat.attacks import pgd, random_start
from fastiseat.engine.accept import as_network_input, layout_of
from fastiseat.engine.precision import FP16_ATTACK_SCALE, autocast, strict_float32


@dataclass(frozen=True, kw_only=True)
class Trial:
    """PGD from δ = 0 or a random δ, and whether the network, in the mode it is in, is right about x'.

    In half precision the attack alone is computed; verdicts are the given network's in its own, without TF32.
    Nothing here waits for the device.
    """

    model: nn.Module
    steps: int
    random_start: bool = False
    precision: str = "full"
    strict: bool = True
    """Whether an attack in float32 may not use TF32 either, where the process allows that."""

    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``correct`` (m,) and ``nan_gradient`` (), both bool, of images, labels, eps and step_size."""
        weight = next(self.model.parameters())
        x, y = as_network_input(given["images"], weight), given["labels"]
        x = x.contiguous(memory_format=layout_of(self.model))
        with autocast("full", x.device):  # backwards run outside of the passes' own
            x_adv, nan_gradient = self._attack(x, y, given)
            with torch.no_grad(), strict_float32():
                correct = self._logits(x_adv, "full").argmax(1) == y
        return {"correct": correct, "nan_gradient": nan_gradient}

    def _attack(self, x: Tensor, y: Tensor, given: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        eps, step_size = given["eps"], given["step_size"]
        start = random_start(x, eps=eps) if self.random_start else torch.zeros_like(x)
        scale = FP16_ATTACK_SCALE if self.precision == "fp16" else 1.0

        def gradient(adversarial: Tensor) -> Tensor:
            adversarial = adversarial.detach().requires_grad_()
            with torch.enable_grad():
                logits = self._logits(adversarial, self.precision)
                loss = F.cross_entropy(logits, y, reduction="sum") * scale
            return torch.autograd.grad(loss, adversarial)[0]

        with strict_float32() if self.strict and self.precision == "full" else nullcontext():
            found = pgd(gradient, x, start, eps=eps, step_size=step_size, steps=self.steps)
        return found.x_adv, found.nan_grad

    def _logits(self, x: Tensor, precision: str) -> Tensor:
        # What an autocast around us has cast would be read as it is at each replay of a recording.
        with autocast(precision, x.device, cache=False):
            logits: Tensor = self.model(x)
        return logits.to(x.dtype)
