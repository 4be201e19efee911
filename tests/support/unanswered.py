"""Networks that answer some images with no numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastiseat.attacks.search.apgd import APGD
from fastiseat.attacks.search.fab import FAB
from fastiseat.attacks.search.square import Square
from fastiseat.evaluation.ensemble import ensembles

CLASSES, SHADES = 5, 255
SPOILS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "all NaN": lambda logits, _: torch.full_like(logits, math.nan),
    "the label's NaN": lambda logits, label: logits.scatter(1, label, math.nan),
    "the label's ∞": lambda logits, label: logits.scatter(1, label, math.inf),
    "the label's -∞": lambda logits, label: logits.scatter(1, label, -math.inf),
    "another's -∞": lambda logits, label: logits.scatter(1, (label + 1) % CLASSES, -math.inf),
    "all ∞": lambda logits, _: torch.full_like(logits, math.inf),
    "no gradient either": lambda logits, _: logits,
}
"""By name, what becomes of logits (m, classes) whose highest is that of ``label`` (m, 1)."""


class Unbreakable(nn.Module):
    """Of images (m, 2, 4, 4): the label is what the second colour's first row says, and no attack changes the answer.

    ``spoil`` makes no numbers of the logits on images whose second colour's last row is bright, where they are
    ``perturbed``, which is where a pixel is no shade of 255, or of the first colour none of 60 to 200, or everywhere.
    """

    def __init__(self, spoil: str = "all NaN", *, perturbed: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(0.01 * torch.rand(16, CLASSES, generator=generator))
        self.spoil, self.perturbed = spoil, perturbed

    def forward(self, x: Tensor) -> Tensor:
        label = (x[:, 1, 0, :1] > 0.5).long()
        logits = x[:, 0].flatten(1) @ self.weight
        logits = logits + torch.zeros_like(logits).scatter(1, label, 10)
        bright, shades = x[:, 1, 3, 0].float() > 0.5, x.detach().float() * SHADES
        changed = ((shades - shades.round()).abs() > 0.1).flatten(1).any(1)
        changed |= ((shades[:, 0] - 130).abs() > 70.5).flatten(1).any(1)
        lost = bright & changed if self.perturbed else bright
        logits = torch.where(lost[:, None], SPOILS[self.spoil](logits, label), logits)
        factor = (
            torch.where(lost, math.nan, 1.0).to(logits) if self.spoil == "no gradient either" else 1.0 + 0 * lost
        )
        return logits * factor[:, None]


def images_for(spoilt: tuple[int, ...], *, size: int = 5) -> tuple[Tensor, Tensor]:
    """uint8 images (n, 4, 4, 2) of the classes 0, 0, 1, 0, 0, 1, … and their labels; those ``spoilt`` are bright."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(60, 200, (size, 4, 4, 2), dtype=torch.uint8, generator=generator)
    labels = (torch.arange(size) % 3 == 2).long()
    images[:, 0, :, 1] = 255 * labels[:, None]
    images[:, 3, :, 1] = 0
    images[list(spoilt), 3, :, 1] = 255
    return images, labels


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ensembles of the same parts with few steps, enough to come back into a ball of 0.1 by tenths."""
    monkeypatch.setattr(ensembles, "APGD", lambda **words: APGD(**words | {"iterations": 4}))
    monkeypatch.setattr(ensembles, "FAB", lambda **words: FAB(**words | {"iterations": 24}))
    monkeypatch.setattr(ensembles, "Square", lambda **words: Square(**words | {"queries": 8}))
    monkeypatch.setattr(ensembles, "_STANDARD_TARGETS", 2)
