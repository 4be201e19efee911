"""The update of all parameters at once, in flat buffers: momentum, weight decay at θ+ν, a running average."""

from __future__ import annotations

from fastiseat.kernels.core import triton_support
from fastiseat.kernels.core.dispatch import Backend, Op
from fastiseat.kernels.core.signature import takes
from fastiseat.kernels.core.torch_ops import Registration
from fastiseat.kernels.sgd import native, reference
from fastiseat.kernels.sgd.arguments import Arguments, check


def _fake(_: Arguments) -> None:
    """Nothing is returned."""


_OP = Op(
    "sgd",
    Arguments,
    reference.sgd,
    Backend(
        name="triton",
        run=triton_support.late("fastiseat.kernels.sgd.triton", "sgd"),
        unsupported=triton_support.unsupported,
        unfit=native.unfit,
        only_when_named=triton_support.ONLY_WHEN_NAMED,
    ),
    Backend(name="native", run=native.sgd, unsupported=native.unsupported, unfit=native.unfit),
    registration=Registration(returns="()", fake=_fake, writes=("weights", "momentum_buffer", "ema")),
)
_OPS = (_OP,)


@takes(Arguments)
def sgd(call: Arguments) -> None:
    """One step of ``torch.optim.SGD``, its weight decay taken at θ+ν (Eq. 18 of the ISEAT paper), in place.

    g = grad + second_grad; d = g + weight_decay·(θ + ratio·perturbation_grad); b ← momentum·b + d; θ ← θ - lr·b;
    average ← ema_decay·average + (1 - ema_decay)·θ: in this order, in the dtype of θ, no two operations fused. b
    starts as zeros. With ``nesterov`` θ ← θ - lr·(d + momentum·b), b the new one. Nothing waits for the device;
    numbers may be tensors of one on it.

    Raises:
        UserError: for an argument that is not as described.
    """
    check(call)
    _OP(call)
