"""FAB, targeted (Croce and Hein, 2020, "Minimally distorted adversarial examples ..."): the nearest image of a class.

Constants and details are those of the authors' code for the targeted attack without restarts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fastiseat.attacks.balls import ball_named, require_served
from fastiseat.attacks.losses import losses_of
from fastiseat.attacks.search.hyperplane import SERVED, toward
from fastiseat.attacks.search.protocol import AttackedNetwork, State, begun, noted, per_image
from fastiseat.attacks.verdict import is_answer, is_right

# How far an iteration may lean towards the image; how far it overshoots; how far back it goes from success.
_ALPHA_MAX, _ETA, _BETA = 0.1, 1.05, 0.9


@dataclass(frozen=True, kw_only=True)
class FAB:
    """Steps onto the linearised boundary between label and target, biased towards the image; back where it is passed.

    An image of any wrong class within ε counts, whichever the target is.
    """

    norm: str = "linf"
    iterations: int = 100

    def __post_init__(self) -> None:
        require_served("fab-t", self.norm, SERVED)

    @property
    def length(self) -> int:
        """A step is an iteration."""
        return self.iterations

    def start(self, given: Mapping[str, torch.Tensor]) -> State:
        """See :class:`~fastiseat.attacks.search.protocol.Search`."""
        return begun(given) | {"x": given["images"].clone()}

    def step(self, state: Mapping[str, torch.Tensor], network: AttackedNetwork) -> State:
        """Linearise, project, look where that led."""
        images, x, labels, target = (state[name] for name in ("images", "x", "labels", "target"))
        ball = ball_named(self.norm)
        logits, lead, w = network.ascent(x, lambda z: losses_of("margin-t", z, labels, target))
        from_x = toward(x, w, lead, self.norm)
        from_image = toward(images, w, lead + (w * (images - x)).flatten(1).sum(1), self.norm)
        far_x, far_image = (ball.length(delta).clamp_min(1e-8) for delta in (from_x, from_image))
        lean = (far_x / (far_x + far_image)).clamp(0, _ALPHA_MAX)
        ahead = ((x + _ETA * from_x) * (1 - lean) + (images + _ETA * from_image) * lean).clamp(0, 1)
        # Where logits or gradient are no numbers no plane leads on: back towards the image, where they are.
        leads = is_answer(logits) & ahead.isfinite().flatten(1).all(1)
        x = torch.where(per_image(leads), ahead, _BETA * x + (1 - _BETA) * images)
        wrong = ~is_right(network.logits(x), labels)
        found = wrong & (ball.length(x - images).flatten() <= state["eps"])
        retreat = torch.where(per_image(wrong), images + (x - images) * _BETA, x)
        return noted(state, x, found) | {"x": retreat}
