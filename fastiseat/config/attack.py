"""The attack inside the training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import arg

from fastiseat.config.pixels import Pixels, require_pixels
from fastiseat.fields import MOST_STEPS, check_types, require, require_count
from fastiseat.names.balls import Norm, require_length


@dataclass(frozen=True, kw_only=True)
class PGD:
    """The attack inside the training step: projected gradient ascent in a ball (PGD in Algorithm 1)."""

    eps: Pixels = 8 / 255
    """ε, the radius of the ball, in units of pixel values in [0, 1]. Paper: 8/255."""
    step_size: Pixels = 2 / 255
    """α, the length of one step, in the same units. Paper: 2/255, SVHN 1/255."""
    norm: Norm = "linf"
    """The ball, in training and validation: max |δ| ≤ ε (linf), the paper's, or ‖δ‖₂ ≤ ε (l2), for which eps and
    step_size are to be given: 128/255 and 15/255 are common on CIFAR-10."""
    steps: int = 10
    """K, the number of steps. Paper: 10."""
    random_start: bool = False
    """Start at a δ uniform in the ball rather than at 0. Released code: off."""
    noise: float = 0.0
    """Start at a normal δ of this standard deviation, which is not clipped. TRADES, MART and HAT: 0.001."""
    bn_mode: Annotated[Literal["train", "eval"], arg(name="attack-bn")] = "train"
    """BatchNorm in the attack: by batch statistics (the released code) or by running ones; eval costs one
    more forward a step where λ ≠ 0."""

    def __post_init__(self) -> None:
        check_types(self)
        require_length(self.norm, "eps", self.eps, "the radius of the perturbation")
        require_length(self.norm, "step_size", self.step_size, "the length of a step")
        require_count(1, "steps", self.steps, most=MOST_STEPS)
        require_pixels("noise", self.noise, "the standard deviation of the start")
        require(
            not (self.noise and self.random_start),
            "noise",
            self.noise,
            "excludes random_start: one start or the other",
        )
