"""What the update descends: the method and its options, each with the methods that have it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fastiseat.fields import Only, check_types, require_at_least, require_fraction, require_text

_STABLE = Only("lsi", "iseat")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What the update descends."""

    method: str = "iseat"
    """none, at, at-awp, lsi, iseat; of other papers at-rice, awp-wu, trades, trades-awp, mart, mart-awp, slore-mart,
    hat, consistency, rst."""
    lam: Annotated[float, _STABLE] = 0.1
    """λ of Eq. 15, the weight of the logit-stability term; 0 turns it off. Paper: 0.1, Tiny ImageNet 0.01. With
    weighting top and awp-gamma 0 it is η of Eq. 7."""
    weighting: Annotated[Literal["linear", "uniform", "top"], _STABLE] = "linear"
    """How iseat and lsi weight the images by vulnerability: by rank (the method), all alike, or its top 10% alone
    (Table 8)."""
    distance: Annotated[Literal["l2", "kl"], _STABLE] = "l2"
    """Between logits, squared L2 (the method) or KL divergence (Table 8)."""
    smoothness: Annotated[Literal["lsiw", "trades-awp", "lsi"], _STABLE] = "lsiw"
    """Which logits are to be alike (Table 9): of x' at θ+ν and x at θ (lsiw, the method), both at θ+ν (trades-awp, 1
    unit more), or both at θ (lsi, 3 units more)."""
    beta: Annotated[float | None, Only("trades", "trades-awp", "mart", "mart-awp", "slore-mart", "hat", "rst")] = (
        None
    )
    """β of trades, mart and those built on them, the weight of their KL term; by default the method's own."""
    reverse_from: Annotated[float | None, Only("slore-mart")] = None
    """Where slore-mart's term comes back with its sign reversed: by default with the 100th of 120 epochs, as in its
    code; 1 for never, as in the 90 epochs of its wide networks."""
    standard: Annotated[Path | None, Only("hat")] = None
    """The weights of the network without defence that hat compares with, of the same data set: a file or a run's
    folder, as --init takes them. Without it one is trained first, in the folder standard beside the run, and kept for
    the next."""

    def __post_init__(self) -> None:
        check_types(self)
        require_text(standard=self.standard)
        require_at_least(0, "lam", self.lam)
        if self.beta is not None:
            require_at_least(0, "beta", self.beta)
        if self.reverse_from is not None:
            require_fraction("reverse_from", self.reverse_from)
