"""ISEAT's objective: adversarial cross entropy, and logit stability weighted by adversarial vulnerability."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fastiseat.kernels.core import triton_support
from fastiseat.kernels.core.dispatch import Backend, Op
from fastiseat.kernels.core.signature import takes
from fastiseat.kernels.stability_loss import limits, native, reference
from fastiseat.kernels.stability_loss.arguments import Arguments, check
from fastiseat.kernels.stability_loss.registration import REGISTRATION


class StabilityLoss(NamedTuple):
    """What :func:`stability_loss` returns; the first three are differentiable for both logits."""

    total: Tensor
    """adversarial + stability, ()."""
    adversarial: Tensor
    """mean ℓ', ()."""
    stability: Tensor
    """λ/m Σ w d, ()."""
    losses: Tensor
    """ℓ', (m,); carries no gradient, as what follows."""
    clean_losses: Tensor
    """ℓ, (m,)."""
    weights: Tensor
    """w, (m,)."""


_OP = Op(
    "stability_loss",
    Arguments,
    reference.stability_loss,
    Backend(
        name="triton",
        run=triton_support.late("fastiseat.kernels.stability_loss.triton", "stability_loss"),
        unsupported=triton_support.unsupported,
        unfit=limits.unfit_for_one_block,
        only_when_named=triton_support.ONLY_WHEN_NAMED,
    ),
    Backend(name="native", run=native.stability_loss, unsupported=native.unsupported, unfit=limits.unfit),
    registration=REGISTRATION,
)
_OPS = (_OP,)


@takes(Arguments)
def stability_loss(call: Arguments) -> StabilityLoss:
    """mean ℓ' + λ/m Σ w d: Eq. 15 of the paper, with the alternatives of its Table 8.

    ℓ' and ℓ are the cross entropies of z' and z, and the highest vulnerability ℓ' - ℓ has rank 0, ties in order
    of index and NaN first. w is a constant: no gradient passes through the ranks. Losses and results are float32
    for logits in half precision, whose gradients come back in their own dtype. Only the reference has second
    derivatives.

    Raises :class:`fastiseat.errors.UserError` for shapes, dtypes or choices other than these.
    """
    check(call)
    return StabilityLoss(*_OP(call)[: len(StabilityLoss._fields)])
