"""How long a run is, and what changes when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fastiseat.fields import Only, check_types, require, require_count, require_fraction

_MOST_EPOCHS = 100_000  # each has its row of the schedule


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long, and what changes when; all boundaries are fractions of the run."""

    epochs: int = 200
    """Passes over the training images. Paper: 200."""
    max_steps: int | None = None
    """Stop after this many steps, validate and finish; the schedule stays that of all the epochs."""
    lr_shape: Literal["steps", "cosine", "onecycle"] = "steps"
    """How the learning rate goes. steps: down at lr_drops (paper). cosine: half a cosine down to 0 (RST). onecycle:
    at every step, a cosine up from lr/25 and one down to lr/250000, and momentum_cycle the other way, PyTorch's
    OneCycleLR (HAT)."""
    lr_drops: Annotated[tuple[float, ...], Only("steps")] = (0.5, 0.75)
    """Where lr_shape steps multiplies it by lr_factor. Paper: at 50% and 75% of the epochs."""
    lr_factor: Annotated[float, Only("steps")] = 0.1
    """What it is multiplied by. Paper: 0.1."""
    lr_stages: Annotated[tuple[float, ...], Only("steps")] = ()
    """In place of lr_factor: one factor for each of lr_drops, of the first learning rate. MART: 0.1 0.01 0.001."""
    lr_per_step: bool = False
    """Set it before each step, to its value at the step's end: a drop then comes one step before its epoch (Rice et
    al.), not with it (paper). onecycle is always set by the step."""
    lr_warmup: Annotated[float, Only("onecycle")] = 0.25
    """First part of the run, in which onecycle rises. HAT: 0.25."""
    momentum_cycle: Annotated[tuple[float, float] | None, Only("onecycle")] = (0.95, 0.85)
    """Of onecycle: momentum at both ends of the run and where lr is highest, by cosines in between; None keeps momentum
    as it is. PyTorch's default, and HAT: 0.95 0.85."""
    lam_from: float = 0.5
    """Where λ comes on. Paper: with the first drop of the learning rate, SVHN and fine-tuning from the start."""
    awp_from: float = 0.0
    """Where the weight perturbation comes on. Released code: from the start."""
    warmup: float = 0.0
    """First part of the run in which ε and α grow from 0 with the epoch and λ = γ = 0. Released code: SVHN 5 of
    200 epochs, 0.025."""

    def __post_init__(self) -> None:
        check_types(self)
        require_count(1, "epochs", self.epochs, most=_MOST_EPOCHS)
        if self.max_steps is not None:
            require_count(1, "max_steps", self.max_steps)
        require(0 < self.lr_factor <= 1, "lr_factor", self.lr_factor, "must lie in 0 … 1, 0 excluded")
        for drop in self.lr_drops:
            require_fraction("lr_drops", drop)
        require_fraction("lr_warmup", self.lr_warmup)
        for momentum in self.momentum_cycle or ():
            require(
                0 < momentum < 1, "momentum_cycle", momentum, "must lie in 0 … 1, both excluded; None turns it off"
            )
        self._check_stages()
        require_fraction("lam_from", self.lam_from)
        require_fraction("awp_from", self.awp_from)
        require_fraction("warmup", self.warmup)

    def _check_stages(self) -> None:
        if not self.lr_stages:
            return
        for factor in self.lr_stages:
            require(0 < factor <= 1, "lr_stages", factor, "must lie in 0 … 1, 0 excluded")
        stages, drops = (" ".join(map(str, given)) for given in (self.lr_stages, self.lr_drops))
        num = len(self.lr_drops)
        rule = f"one factor for each of lr_drops is needed, {num}; give as many, or none for powers of lr_factor"
        require(len(self.lr_stages) == num, "lr_stages", stages, rule)
        ascend = list(self.lr_drops) == sorted(self.lr_drops)
        require(ascend, "lr_drops", drops, "with lr_stages they must ascend; put both in the order of the run")
