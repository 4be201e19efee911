"""CropShift: a crop of the image, moved about on a black canvas of the image's size."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fastiseat.kernels.core.philox import below


class Cut(NamedTuple):
    """What happens along one axis; each int64 (m,)."""

    size: Tensor
    """Pixels cut off; as many are padded on either side of the rest."""
    start: Tensor
    """The first pixel that is kept, 0 … size."""
    window: Tensor
    """Where in the padded rest the result begins, 0 … size."""


class Placement(NamedTuple):
    """The same, told from the result: what it shows at position p; each int64 (m,)."""

    first: Tensor
    stop: Tensor
    """The image shows where first <= p < stop, black elsewhere."""
    shift: Tensor
    """At p lies the image's pixel p + shift."""


def draw(size: Tensor, share: Tensor, places: Tensor, low: int, high: int) -> tuple[Cut, Cut]:
    """The cuts along rows and columns: one size from ``low`` to ``high - 1``, shared out between the two.

    Args:
        size: words (m,), how much is cut off in all.
        share: words (m,), how much of it is cut off the width.
        places: words (4, m), the crop's left and top, the window's left and top.
        low: the policy's ``lo``.
        high: the policy's ``hi``.
    """
    total = low + below(size, high - low)
    width = below(share, total + 1)
    height = total - width
    left, top, window_left, window_top = places
    columns = Cut(width, below(left, width + 1), below(window_left, width + 1))
    rows = Cut(height, below(top, height + 1), below(window_top, height + 1))
    return rows, columns


def place(cut: Cut, length: int) -> Placement:
    """Where along an axis of ``length`` pixels the image shows, and which part of it."""
    first = cut.size - cut.window
    return Placement(first, length - cut.window, cut.start - first)
