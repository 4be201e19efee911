"""Horizontal flip and random crop, drawn by counter: the same for every loader, device and resume."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fastiseat.kernels.augment import limits, native, reference
from fastiseat.kernels.augment.arguments import Arguments, PadMode, check
from fastiseat.kernels.core import triton_support
from fastiseat.kernels.core.dispatch import Backend, Op
from fastiseat.kernels.core.philox import signed
from fastiseat.kernels.core.signature import takes
from fastiseat.kernels.core.torch_ops import Registration

__all__ = ["Arguments", "PadMode", "augment"]

_OP: Op[Arguments, Tensor] = Op(
    "augment",
    Arguments,
    reference.augment,
    Backend(
        name="triton",
        run=triton_support.late("fastiseat.kernels.augment.triton", "augment"),
        unsupported=limits.unsupported_by_triton,
        unfit=limits.unfit,
        only_when_named=triton_support.ONLY_WHEN_NAMED,
    ),
    Backend(name="native", run=native.augment, unsupported=native.unsupported, unfit=limits.unfit),
    registration=Registration(returns="Tensor", fake=limits.result),
    for_reference=lambda call: call.dtype == torch.float64,
)
_OPS = (_OP,)


@takes(Arguments)
def augment(call: Arguments) -> Tensor:
    """Mirror each image with probability ½, then cut a window of its own size out of the padded image.

    A sample's draws are a function of (seed, epoch, index) alone, whatever batch it comes in. Its four words are

        ``philox(counter=(index & M, index >> 32, epoch, Stream.AUGMENT), key=(seed & M, seed >> 32))``

    with M = 2**32 - 1, ``Stream.AUGMENT`` = 1 and each of them a 32-bit word (index as two's complement). Word 0:
    mirrored if its top bit is set. Words 1 and 2: the window's top and left in the padded image,
    ``(word · (2·pad + 1)) >> 32`` in 0 … 2·pad. Word 3 is not used. ``flip`` and ``pad`` switch an operation on
    and change no draw of the other. The value of a pixel is ``images.to(dtype).div(255)``: the quotient in float32,
    or in float64 for that dtype, then rounded to ``dtype``.

    The paper's recipe is the default; Rice et al. pad CIFAR-10 by reflection; SVHN is not augmented
    (``flip=False, pad=0``: only the conversion). Nothing waits for the device, and with ``epoch`` as a tensor
    on it a captured graph draws anew at every replay.

    Returns:
        (m, C, H, W) of ``dtype`` in [0, 1]; no argument is changed.

    Raises:
        UserError: for an argument that is not as described.
    """
    check(call)
    # The schema's integers are signed; most seeds are as they are.
    return _OP(replace(call, seed=signed(call.seed, 64)) if call.seed >> 63 else call)
