"""One start of an attack on one batch, up to the verdicts: what an engine runs call by call, or by a recording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastiseat.attacks import pgd, random_start
from fastiseat.attacks.losses import losses_of
from fastiseat.attacks.verdict import is_answer, is_right
from fastiseat.engine.accept import as_network_input, layout_of
from fastiseat.evaluation.passes import EvaluationPasses, pixels_of
from fastiseat.names.balls import Norm


@dataclass(frozen=True, kw_only=True)
class Trial:
    """PGD from δ = 0 or a random δ, and whether the network, in the mode it is in, is right about x'.

    In half precision the attack alone is computed; verdicts are the given network's in its own, without TF32.
    Nothing here waits for the device.
    """

    model: nn.Module
    steps: int
    random_start: bool = False
    norm: Norm = "linf"
    loss: str = "ce"
    precision: str = "full"
    strict: bool = True
    """Whether an attack in float32 may not use TF32 either, where the process allows that."""

    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``correct`` (m,), ``answered`` (m,) and ``nan_gradient`` (), all bool, of images, labels, eps and step_size.

        ``answered``: whether the logits at the start of the attack, or the verdict's where it takes no step, are
        finite numbers.
        """
        x, y = as_network_input(given["images"], pixels_of(self.model)), given["labels"]
        x = x.contiguous(memory_format=layout_of(self.model))
        x_adv, answered, nan_gradient = self._attack(x, y, given)
        logits = EvaluationPasses(model=self.model).logits(x_adv)
        first = answered[0] if answered else is_answer(logits)
        return {"correct": is_right(logits, y), "answered": first, "nan_gradient": nan_gradient}

    def _attack(self, x: Tensor, y: Tensor, given: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
        eps, step_size = given["eps"], given["step_size"]
        start = random_start(x, eps=eps, norm=self.norm) if self.random_start else torch.zeros_like(x)
        passes = EvaluationPasses(model=self.model, precision=self.precision, strict=self.strict)
        answered: list[Tensor] = []

        def gradient(adversarial: Tensor) -> Tensor:
            there = passes.ascent(adversarial, lambda z: losses_of(self.loss, z, y, y))
            if not answered:
                answered.append(is_answer(there.logits))
            return there.gradient

        found = pgd(gradient, x, start, eps=eps, step_size=step_size, steps=self.steps, norm=self.norm)
        return found.x_adv, answered, found.nan_grad
