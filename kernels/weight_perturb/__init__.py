"""Adversarial weight perturbation of all parameters at once, in a flat buffer."""

from __future__ import annotations

from torch import Tensor

from fastiseat.kernels.core import triton_support
from fastiseat.kernels.core.dispatch import Backend, Op
from fastiseat.kernels.core.signature import takes
from fastiseat.kernels.core.torch_ops import Registration
from fastiseat.kernels.weight_perturb import native, reference
from fastiseat.kernels.weight_perturb.arguments import Arguments, Norm, check

__all__ = ["Arguments", "Norm", "weight_perturb"]


def _fake(call: Arguments) -> Tensor:
    return call.weights.new_empty(call.segments.perturbed.shape)


_OP: Op[Arguments, Tensor] = Op(
    "weight_perturb",
    Arguments,
    reference.weight_perturb,
    Backend(
        name="triton",
        run=triton_support.late("fastiseat.kernels.weight_perturb.triton", "weight_perturb"),
        unsupported=triton_support.unsupported,
        unfit=native.unfit,
        only_when_named=triton_support.ONLY_WHEN_NAMED,
    ),
    Backend(name="native", run=native.weight_perturb, unsupported=native.unsupported, unfit=native.unfit),
    registration=Registration(returns="Tensor", fake=_fake, writes=("out", "out_full")),
)
_OPS = (_OP,)


@takes(Arguments)
def weight_perturb(call: Arguments) -> Tensor:
    """θ + ν with ν = γ ‖θ‖ / (‖g‖ + 1e-20) · g, Frobenius norms of each tensor alone or of all that are perturbed.

    Wu et al., 2020; Eq. 11 of the ISEAT paper. Norms and their ratio are taken in float64, the sum in the dtype of
    θ. What is not finite in g spreads as the formula says; a tensor that is not perturbed comes out as it went in,
    whatever its gradient. Sums have one order, so that equal inputs give equal bits. Nothing waits for the device.

    Returns:
        ratio, (S,), of the dtype of θ: what each tensor's g is multiplied with, 0 for those not perturbed.

    Raises:
        UserError: for an argument that is not as described.
    """
    check(call)
    return _OP(call)
