"""A network as other people's attacks are to see it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastiseat.attacks.verdict import is_answer
from fastiseat.evaluation.passes import EvaluationPasses, pixels_of


class Answers(nn.Module):
    """Images and logits in the dtype of :func:`~fastiseat.evaluation.passes.pixels_of`, and every logit a number.

    AutoAttack's authors' code takes a NaN for class 0. An answer with logits that are no finite numbers is a confident
    one of a wrong class here: of ``instead``, for which samples of that very class need another one.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.passes = model, EvaluationPasses(model=model, strict=False)
        self.instead = 0
        self.lost = torch.zeros((), dtype=torch.bool, device=pixels_of(model).device)

    def begin(self, *, instead: int) -> None:
        """From here on; ``lost``, bool (), tells whether there have been such answers since."""
        self.instead = instead
        self.lost = torch.zeros_like(self.lost)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (m, classes)."""
        logits = self.passes.forward(x)
        answered = is_answer(logits)
        self.lost |= ~answered.all()
        certain = torch.zeros_like(logits)
        certain[:, self.instead] = 1
        return torch.where(answered[:, None], logits, certain)
