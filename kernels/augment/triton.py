"""``augment`` in one launch: each program fills a block of one sample, and draws that sample's draws for itself."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastiseat.kernels.augment.arguments import Arguments
from fastiseat.kernels.augment.limits import LAYOUTS, PAD_MODES, epoch_words, result
from fastiseat.kernels.core.philox import Stream, signed

_BLOCK = 1024
# Every thread draws the sample's draws anew: few threads, of 16 values each.
_NUM_WARPS = 2
_ZERO, _REFLECT = tl.constexpr(PAD_MODES["zero"]), tl.constexpr(PAD_MODES["reflect"])
_CONTIGUOUS = tl.constexpr(LAYOUTS[torch.contiguous_format])
_CHANNELS_LAST = tl.constexpr(LAYOUTS[torch.channels_last])
_STREAM = tl.constexpr(int(Stream.AUGMENT))
# 1/255 in two parts. A level times the first is exact, so that the sum is the quotient correctly rounded, for each of
# the 256 levels and whether or not a compiler fuses it; a division takes several times as long.
_HIGH, _LOW = tl.constexpr(257 * 2.0**-16), tl.constexpr(8421505 * 2.0**-47)


def augment(call: Arguments) -> Tensor:
    """``fastiseat.kernels.augment`` for the calls that ``limits.unfit`` lets pass."""
    out = result(call)
    if not out.numel():
        return out
    epoch, epoch_tensor = epoch_words(call.epoch)
    height, width, channels = call.images.shape[1:]
    num_blocks = triton.cdiv(height * width * channels, _BLOCK)
    places = call.index.contiguous()  # stands for every tensor that a call does not have
    augment_kernel[(len(places) * num_blocks,)](
        call.images,
        places,
        places if call.rows is None else call.rows.contiguous(),
        places if epoch_tensor is None else epoch_tensor,
        out,
        len(call.images),
        # An argument that has one type for every seed is compiled once.
        *(signed(word, 32) for word in (call.seed, call.seed >> 32, epoch)),
        HEIGHT=height,
        WIDTH=width,
        CHANNELS=channels,
        PAD=call.pad,
        NUM_BLOCKS=num_blocks,
        BLOCK=_BLOCK,
        HAS_ROWS=call.rows is not None,
        HAS_EPOCH=epoch_tensor is not None,
        FLIP=bool(call.flip),
        PAD_MODE=PAD_MODES[call.pad_mode],
        LAYOUT=LAYOUTS[call.memory_format],
        num_warps=_NUM_WARPS,
    )
    return out


@triton.jit
def _round(c0, c1, c2, c3, k0, k1):
    product_0, product_1 = c0.to(tl.uint64) * 0xD2511F53, c2.to(tl.uint64) * 0xCD9E8D57
    high_0, low_0 = (product_0 >> 32).to(tl.uint32), product_0.to(tl.uint32)
    high_1, low_1 = (product_1 >> 32).to(tl.uint32), product_1.to(tl.uint32)
    return high_1 ^ c1 ^ k0.to(tl.uint32), low_1, high_0 ^ c3 ^ k1.to(tl.uint32), low_0


@triton.jit
def _philox(c0, c1, c2, c3, seed_low, seed_high):
    # Of the keys' 64 bits the lower half counts: their sums wrap around without an overflow.
    k0, k1 = seed_low.to(tl.uint32).to(tl.uint64), seed_high.to(tl.uint32).to(tl.uint64)
    for _ in tl.static_range(10):
        c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1)
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1, c2


@triton.jit
def _shift(word, PAD: tl.constexpr):
    return ((word.to(tl.uint64) * (2 * PAD + 1)) >> 32).to(tl.int32) - PAD


@triton.jit
def _reflected(place, SIZE: tl.constexpr):
    place = tl.where(place < 0, -place, place)
    return tl.where(place < SIZE, place, 2 * (SIZE - 1) - place)


@triton.jit(do_not_specialize=["num_images", "seed_low", "seed_high", "epoch"])
def augment_kernel(
    images,
    index,
    rows,
    epoch_at,
    out,
    num_images,
    seed_low,
    seed_high,
    epoch,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    PAD: tl.constexpr,
    NUM_BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    HAS_EPOCH: tl.constexpr,
    FLIP: tl.constexpr,
    PAD_MODE: tl.constexpr,
    LAYOUT: tl.constexpr,
):
    """One block of one sample; ``BLOCK`` values in the order of the output."""
    program = tl.program_id(0)
    sample = (program // NUM_BLOCKS).to(tl.int64)
    row = sample
    if HAS_ROWS:
        row = tl.load(rows + sample)
    if HAS_EPOCH:
        epoch = tl.load(epoch_at)
    place = tl.load(index + sample)
    stream = tl.full((), _STREAM, tl.uint32)
    place_low, place_high = place.to(tl.uint32), (place >> 32).to(tl.uint32)
    flip_word, top_word, left_word = _philox(
        place_low, place_high, epoch.to(tl.uint32), stream, seed_low, seed_high
    )

    offsets = (program % NUM_BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    if LAYOUT == _CHANNELS_LAST:
        y, x, channel = offsets // (WIDTH * CHANNELS), offsets // CHANNELS % WIDTH, offsets % CHANNELS
    else:
        tl.static_assert(LAYOUT == _CONTIGUOUS, "a choice that it does not serve")
        y, x, channel = offsets // WIDTH % HEIGHT, offsets % WIDTH, offsets // (HEIGHT * WIDTH)
    y, x = y + _shift(top_word, PAD), x + _shift(left_word, PAD)
    if PAD_MODE == _REFLECT:
        y, x = _reflected(y, HEIGHT), _reflected(x, WIDTH)
    else:
        tl.static_assert(PAD_MODE == _ZERO, "a choice that it does not serve")
    inside = (y.to(tl.uint32) < HEIGHT) & (x.to(tl.uint32) < WIDTH)  # below 0 is far above
    if FLIP:
        x = tl.where((flip_word >> 31) == 1, WIDTH - 1 - x, x)

    SIZE: tl.constexpr = HEIGHT * WIDTH * CHANNELS
    # A row that names no image is not read, and shows as NaN.
    exists = offsets < tl.where((row >= 0) & (row < num_images), SIZE, 0)
    source = images + row * SIZE + ((y * WIDTH + x) * CHANNELS + channel)
    levels = tl.load(source, mask=exists & inside, other=0).to(tl.float32)
    values = tl.where(exists, levels * _HIGH + levels * _LOW, float("nan"))
    tl.store(out + sample * SIZE + offsets, values.to(out.dtype.element_ty), mask=offsets < SIZE)
