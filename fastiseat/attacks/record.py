"""What a method may ask to be kept of the attack on its batch. None of it costs a pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What is kept beside x', each only where it is asked for; all asks for the labels of the batch."""

    kappa: bool = False
    """κ, as geometry-aware training weights by it (GAIRAT, Zhang et al., 2021)."""
    patience: int | None = None
    """τ of friendly training (FAT, Zhang et al., 2020): once misclassified, an image takes τ steps more, and rests."""
    logits: bool = False
    """The network's answers on the way."""
    iterates: bool = False
    """The images on the way."""


class Look(NamedTuple):
    """What a network tells an attack that is watched."""

    gradient: Tensor
    """(m, C, H, W), of each sample's own loss."""
    logits: Tensor | None = None
    """(m, classes), without a graph."""


@dataclass(frozen=True, kw_only=True)
class AttackRecord:
    """What was kept of an attack of K steps on m images; None of what was not asked for."""

    clock: Tensor
    """int64 (m,): how many steps each image took, K but where it came to rest."""
    kappa: Tensor | None = None
    """int64 (m,): at how many of the K points that steps were taken from the network was right, the start included."""
    logits: Tensor | None = None
    """(K, m, classes), of those points: the one after the last step has no pass in the attack."""
    iterates: Tensor | None = None
    """(K + 1, m, C, H, W): the start in [0, 1], and x' after each step."""

    def of_first(self, count: int) -> AttackRecord:
        """That of the first ``count`` images."""
        return AttackRecord(
            clock=self.clock[:count],
            kappa=None if self.kappa is None else self.kappa[:count],
            logits=None if self.logits is None else self.logits[:, :count],
            iterates=None if self.iterates is None else self.iterates[:, :count],
        )
