"""Horizontal flip and random crop, drawn by counter: the same for every loader, device and resume."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from fastiseat.errors import UserError, unknown
from fastiseat.kernels.augment import limits, native, reference
from fastiseat.kernels.augment.reference import PadMode
from fastiseat.kernels.core import triton_support
from fastiseat.kernels.core.checks import check_numbers, check_result, check_tensors, host_may_look
from fastiseat.kernels.core.dispatch import Backend, Op
from fastiseat.kernels.core.torch_ops import Registration


def _fake(images: Tensor, index: Tensor, *settings: Any) -> Tensor:
    dtype, memory_format = settings[6:8]
    return limits.result(images, index, dtype, memory_format)


_OP: Op[..., Tensor] = Op(
    "augment",
    reference.augment,
    Backend(
        name="triton",
        run=triton_support.late("fastiseat.kernels.augment.triton", "augment"),
        unsupported=limits.unsupported_by_triton,
        unfit=limits.unfit_for_triton,
        only_when_named=triton_support.ONLY_WHEN_NAMED,
    ),
    Backend(name="native", run=native.augment, unsupported=native.unsupported, unfit=native.unfit),
    registration=Registration(
        schema="(Tensor images, Tensor index, Tensor? rows, int seed, int epoch, bool flip, int pad, str pad_mode, "
        "ScalarType dtype, MemoryFormat memory_format, Tensor? epoch_tensor=None) -> Tensor",
        fake=_fake,
        numbers=("epoch",),
    ),
    for_reference=lambda *_, dtype, **__: dtype == torch.float64,
)
_OPS = (_OP,)


def augment(
    images: Tensor,
    index: Tensor,
    *,
    rows: Tensor | None = None,
    seed: int,
    epoch: int | Tensor,
    flip: bool = True,
    pad: int = 4,
    pad_mode: PadMode = "zero",
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
) -> Tensor:
    """Mirror each image with probability ½, then cut a window of its own size out of the padded image.

    A sample's fate is a function of (seed, epoch, index) alone, whatever batch it comes in. Its four words are

        ``philox(counter=(index & M, index >> 32, epoch, Stream.AUGMENT), key=(seed & M, seed >> 32))``

    with M = 2**32 - 1, ``Stream.AUGMENT`` = 1 and each of them a 32-bit word (index as two's complement). Word 0:
    mirrored if its top bit is set. Words 1 and 2: the window's top and left in the padded image,
    ``(word · (2·pad + 1)) >> 32`` in 0 … 2·pad. Word 3 is not used. ``flip`` and ``pad`` switch an operation on
    and change no draw of the other. The value of a pixel is ``images.to(dtype).div(255)``: the quotient in float32,
    or in float64 for that dtype, then rounded to ``dtype``.

    The paper's recipe is the default; Rice et al. pad CIFAR-10 by reflection; SVHN is not augmented
    (``flip=False, pad=0``: only the conversion). Nothing waits for the device, and with ``epoch`` as a tensor
    on it a captured graph draws anew at every replay.

    Args:
        images: uint8 (m, H, W, C); with ``rows`` any number of images.
        index: int64 (m,), each sample's place in the data set, on the device of ``images``.
        rows: int64 (m,), which of ``images`` each sample is, on their device; without it sample i is image i. One
            that names no image is an error on a CPU, where nothing records the call; on a CUDA device it gives NaN,
            or the reference's assertion.
        seed: 0 … 2**64 - 1.
        epoch: 0 … 2**32 - 1; as an integer tensor, 0-dimensional and on the device of ``images``, it is not
            looked at, and its low 32 bits count.
        flip: whether to mirror at all.
        pad: pixels added on each side; 0 for no crop.
        pad_mode: ``"zero"`` for black, or ``"reflect"`` for the image mirrored at its outermost pixels, which
            are not repeated (``pad`` below H and W).
        dtype: float32, float64, bfloat16 or float16.
        memory_format: ``torch.channels_last`` or ``torch.contiguous_format``.

    Returns:
        (m, C, H, W) of ``dtype`` in [0, 1]; no argument is changed.

    Raises:
        UserError: for an argument that is not as described.
    """
    check_tensors(images, index, epoch, rows)
    check_numbers(seed, epoch)
    _check_rows(images, rows)
    _check_padding(images, pad, pad_mode)
    check_result(dtype, memory_format)
    return _OP(
        images,
        index,
        rows=rows,
        seed=seed - (seed >> 63 << 64),  # the same 64 bits as a signed integer, which is what an op can take
        epoch=epoch,
        flip=flip,
        pad=pad,
        pad_mode=pad_mode,
        dtype=dtype,
        memory_format=memory_format,
    )


def _check_rows(images: Tensor, rows: Tensor | None) -> None:
    if rows is None or not host_may_look(rows) or not len(rows):
        return
    lowest, highest = (end.item() for end in rows.aminmax())
    if lowest < 0 or highest >= len(images):
        raise UserError(f"rows lie in {lowest} … {highest}; those of images are 0 … {len(images) - 1}")


def _check_padding(images: Tensor, pad: int, pad_mode: str) -> None:
    if pad_mode not in get_args(PadMode):
        raise unknown("pad_mode", pad_mode, get_args(PadMode))
    if pad < 0:
        raise UserError(f"pad={pad} must not be negative; 0 turns the crop off")
    smaller = min(images.shape[1:3])
    if pad_mode == "reflect" and 0 < smaller <= pad:
        raise UserError(
            f"pad={pad}: images of {images.shape[1]}×{images.shape[2]} pixels reflect at most {smaller - 1}; "
            'take a smaller pad, or pad_mode="zero"'
        )
