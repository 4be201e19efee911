"""Adversarial weight perturbation (Wu et al., 2020; Eq. 11 of the ISEAT paper)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor

W = TypeVar("W", bound=Tensor)


def perturbable(weights: Mapping[str, W]) -> dict[str, W]:
    """Those of ``weights`` that ν moves: more than one dimension, so no BatchNorm and no bias."""
    return {name: weight for name, weight in weights.items() if weight.dim() > 1}
