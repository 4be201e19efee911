"""How far a result is from the reference's."""

from __future__ import annotations

from torch import Tensor


def relative(found: Tensor, reference: Tensor) -> float:
    """The difference's norm over the reference's; a variant without BatchNorm has nothing to differ in."""
    if not reference.numel():
        return 0.0
    found, reference = found.detach().double().cpu(), reference.detach().double().cpu()
    return float((found - reference).norm() / reference.norm().clamp_min(1e-300))
