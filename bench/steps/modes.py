"""What a step of ours may do other than plainly, memory for time and approximations: each a row of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from fastiseat.errors import unknown

AWPGradient = Literal["exact", "last-attack-step", "half-batch", "previous-step"]


@dataclass(frozen=True, kw_only=True)
class Mode:
    """One departure from the plain step."""

    name: str = ""
    """Ends the names of its variants."""
    description: str = ""
    units: Mapping[str, float]
    """What it costs beyond the plain step, by method; a method that is missing here is not offered."""
    clean_graph: str = "keep"
    awp_gradient: AWPGradient = "exact"
    checkpoint_blocks: bool = False
    overlap: bool = False
    """Whether the clean pass has a stream of its own; in a CUDA graph alone."""
    wasteful: bool = False
    """Whether the attack computes weight gradients and drops them."""

    @property
    def approximate(self) -> bool:
        """Whether it computes something else than the method's step."""
        return self.awp_gradient != "exact"


def _approximate(kind: AWPGradient, saved: float) -> Mode:
    return Mode(
        name=kind,
        description=f"ν from {kind}, approximate",
        units={"at-awp": -saved, "iseat": -saved},
        awp_gradient=kind,
    )


MODES = {
    mode.name: mode
    for mode in [
        Mode(units={"at": 0, "at-awp": 0, "lsi": 0, "iseat": 0}),
        Mode(
            name="recompute",
            description="the clean pass computed again",
            units={"at": 0, "at-awp": 0, "lsi": 1, "iseat": 1},
            clean_graph="recompute",
        ),
        _approximate("last-attack-step", 2),
        _approximate("half-batch", 1.5),
        _approximate("previous-step", 3),
        Mode(
            name="checkpoint-blocks",
            description="residual blocks that keep their input alone",
            units={"at": 11, "at-awp": 12, "lsi": 12, "iseat": 13},  # a forward for each backward
            checkpoint_blocks=True,
        ),
        Mode(
            name="overlap",
            description="the clean pass on a second stream, in a CUDA graph",
            units={"at": 0, "at-awp": 0, "lsi": 0, "iseat": 0},
            overlap=True,
        ),
        Mode(
            name="wasteful",
            description="an attack that computes weight gradients too, the clean pass computed again",
            units={"at": 10, "at-awp": 10, "lsi": 11, "iseat": 11},
            clean_graph="recompute",
            wasteful=True,
        ),
    ]
}
"""By name, the plain one first, as "". An entry more is all that it takes to have another one verified and timed."""

PLAIN = MODES[""]


def modes_named(
    *,
    clean_graph: Collection[str] = ("keep",),
    awp_gradient: Collection[str] = ("exact",),
    checkpoint_blocks: bool = False,
    overlap: bool = False,
    wasteful: bool = False,
) -> tuple[str, ...]:
    """The modes that these words ask for, none combined with another; the plain one is keep and exact."""
    for kind, given in (("clean_graph", clean_graph), ("awp_gradient", awp_gradient)):
        known = list(dict.fromkeys(getattr(mode, kind) for mode in MODES.values()))
        for word in given:
            if word not in known:
                raise unknown(kind, word, known)
    wanted = {
        "recompute": "recompute" in clean_graph,
        "checkpoint-blocks": checkpoint_blocks,
        "overlap": overlap,
        "wasteful": wasteful,
    }
    wanted |= {name: name in awp_gradient for name, mode in MODES.items() if mode.approximate}
    wanted[PLAIN.name] = "keep" in clean_graph and "exact" in awp_gradient
    return tuple(name for name in MODES if wanted[name])
