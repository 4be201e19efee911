"""The authors' AutoAttack as their package has it, on a network as it was loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastiseat.engine.restore import own_randomness
from fastiseat.evaluation.ensemble.official import standard_attack

# The attribute that runs each part.
_ATTACKS = {"apgd-ce": "apgd", "apgd-t": "apgd_targeted", "fab-t": "fab", "square": "square"}
Around = Callable[[str, Callable[[], Any]], Any]
"""Told of each batch's attack by its part, calls it and gives its result back."""


class OfficialAutoAttack:
    """The standard version, as its README has it used."""

    def __init__(
        self, model: nn.Module, *, eps: float, norm: str, num_classes: int, device: torch.device, seed: int = 0
    ) -> None:
        self.model, self.device, self.seed = copy.deepcopy(model).eval(), device, seed
        self.official = standard_attack(
            self.model, eps=eps, norm=norm, num_classes=num_classes, seed=seed, device=device
        )

    def __call__(self, x: Tensor, y: Tensor, *, parts: Sequence[str], batch_size: int, around: Around) -> Tensor:
        """bool (n,), on the CPU: which images are classified correctly after ``parts``."""
        self.official.attacks_to_run = list(parts)
        for part in parts:
            self._surround(part, around)
        with own_randomness(self.device, self.seed):
            _, predicted = self.official.run_standard_evaluation(x, y, batch_size=batch_size)
        robust: Tensor = predicted == y
        return robust.cpu()

    def _surround(self, part: str, around: Around) -> None:
        attack = getattr(self.official, _ATTACKS[part])
        plain = type(attack).perturb

        def perturb(x: Tensor, y: Tensor) -> Any:
            return around(part, lambda: plain(attack, x, y))

        attack.perturb = perturb
