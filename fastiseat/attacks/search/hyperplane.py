"""The shortest way from an image to a hyperplane within [0, 1], by which FAB moves.

Croce and Hein, 2020, "Minimally distorted adversarial examples with a fast adaptive boundary attack", Eq. 4.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastiseat.kernels.core.checks import host_may_look

# How fast each pixel moves along the shortest way, by its slope: in the L∞ ball all alike, in L2 as steep as it is.
_SPEEDS: dict[str, Callable[[Tensor], Tensor]] = {"linf": torch.ones_like, "l2": lambda steep: steep}
SERVED = tuple(_SPEEDS)
"""The balls whose shortest ways these are."""

# Each iteration but the last passes a pixel's border; those of a batch need three to six, and 22 where the slopes of
# the pixels differ by powers of ten.
_MOST = 24


def toward(x: Tensor, w: Tensor, gap: Tensor, norm: str) -> Tensor:
    """The shortest δ (m, C, H, W) with ⟨w, δ⟩ = -``gap`` and x + δ in [0, 1]; as far as the borders let it.

    Every pixel moves down the slope, in the L∞ ball by λ and in the L2 ball by λ|w_i|, or to its border where that
    is nearer. What this gains, Σ min(λ a_i, s_i), is concave in λ and piecewise linear: Newton's method from λ = 0
    climbs to the solution without passing it, and needs no sorting.

    Args:
        x: images (m, C, H, W) in [0, 1].
        w: the hyperplane's normal, of that shape.
        gap: (m,), ⟨w, x⟩ - b: how far x lies above it.
        norm: one of :data:`SERVED`.
    """
    slope = w.flatten(1) * torch.where(gap >= 0, 1, -1)[:, None].to(w.dtype)
    at = x.flatten(1)
    room = torch.where(slope > 0, at, 1 - at) * (slope != 0)  # the slope is gone down
    steep = slope.abs()
    speed = _SPEEDS[norm](steep)
    reach = _newton(speed * steep, steep * room, gap.abs())
    # Finite, as a pixel without a slope has no speed; a NaN stays one.
    reach = reach.clamp_max(torch.finfo(reach.dtype).max)
    length = torch.minimum(reach[:, None] * speed, room)
    return torch.where(slope > 0, -length, length).view(x.shape)


def _newton(rate: Tensor, most: Tensor, wanted: Tensor) -> Tensor:
    """λ (m,) with Σ min(λ ``rate``, ``most``) = ``wanted``; infinite where the sum can't be reached."""
    reach = torch.zeros_like(wanted)
    for _ in range(_MOST):
        moving = reach[:, None] * rate < most
        gained = torch.where(moving, 0.0, most).sum(1)
        higher = (wanted - gained) / torch.where(moving, rate, 0.0).sum(1)
        higher = torch.where(wanted > gained, higher, reach)  # 0 / 0 where nothing is wanted
        if host_may_look(reach) and torch.equal(higher, reach):
            break
        reach = higher
    return reach
