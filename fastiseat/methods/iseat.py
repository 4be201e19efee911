"""ISEAT's objective, Eq. 15: adversarial cross entropy and instance-weighted logit stability, with its ablations.

With AWP it is ISEAT; without, the input smoothing alone, LSI. With ``weighting="top"`` and no AWP it is Eq. 7, whose η
is ``lam``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastiseat.config import Objective
from fastiseat.kernels import stability_loss
from fastiseat.kernels.stability_loss import StabilityLoss
from fastiseat.methods.at import AT
from fastiseat.methods.base import Method
from fastiseat.methods.outputs import Outputs


@dataclass(frozen=True, kw_only=True)
class ISEAT(Method):
    """L = mean ℓ'_i + (λ/m) Σ w_i d(z'_i, z_i), gradient through both logits.

    w_i ranks AV_i = ℓ'_i - ℓ_i (Eq. 13, 14), over the whole batch. Defaults: the paper's CIFAR-10 setting, with
    z' = f(x'; θ+ν), z = f(x; θ) and d the squared L2 distance. 28 units a step at K = 10, 25 without AWP.
    """

    lam: float = 0.1
    weighting: str = "linear"
    """Table 8: w = 1 - rank/m; ``uniform``, 1; ``top``, 1 for the 10% of the highest AV, else 0."""
    distance: str = "l2"
    """Table 8: ``l2``, squared, or ``kl``, KL(p(z) ‖ p(z')) as in MART."""
    smoothness: str = "lsiw"
    """Table 9, which logits are to be alike: ``lsiw``, those of (x'; θ+ν) and (x; θ); ``trades-awp``, (x'; θ+ν) and
    (x; θ+ν), 1 unit more; ``lsi``, (x'; θ) and (x; θ), 3 units more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # The one place that knows which are allowed.
        Objective(
            lam=self.lam,
            weighting=self.weighting,  # type: ignore[arg-type]
            distance=self.distance,  # type: ignore[arg-type]
            smoothness=self.smoothness,  # type: ignore[arg-type]
        )

    @property
    def needs_clean(self) -> bool:  # type: ignore[override]
        """With all its parts at θ+ν it takes a clean pass there."""
        return self.smoothness != "trades-awp"

    def reduced(self) -> Method:
        """λ = 0 is plain adversarial training, at its cost."""
        return self if self.lam else AT()

    def objective(self, at: Outputs, labels: Tensor) -> dict[str, Tensor]:
        """Two terms, ``adversarial`` and ``stability`` (λ included)."""
        clean = at.clean_perturbed() if at.clean is None else at.clean
        loss = self._loss(at.adversarial(), clean, labels)
        if self.smoothness != "lsi":
            return {"adversarial": loss.adversarial, "stability": loss.stability}
        at_theta = self._loss(at.unperturbed(at.x_adv), clean, labels)
        return {"adversarial": loss.adversarial, "stability": at_theta.stability}

    def _loss(self, logits: Tensor, clean: Tensor, labels: Tensor) -> StabilityLoss:
        return stability_loss(
            logits,
            clean,
            labels,
            lam=self.lam,
            weighting=self.weighting,  # type: ignore[arg-type] # as above
            distance=self.distance,  # type: ignore[arg-type]
        )
