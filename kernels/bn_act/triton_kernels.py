"""The Triton kernels of ``bn_act``: tiles of BLOCK_R elements of each of BLOCK_C channels.

An array is ``num`` x ``channels`` x ``inner``; ``inner`` is 1 for channels_last. Row r of a channel is element
r % inner of image r // inner. A program takes ``rows_per_part`` rows, tile by tile; sums over a channel go through
one partial sum for each part, added up by a small kernel at the end: no atomics, so the order is fixed.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

STAGES = tl.constexpr(3)
"""Tiles of a pass that are under way at once: the registers alone hold too few bytes for the bandwidth of a card."""


@triton.jit
def _offsets(rows, cols, channels, inner, IS_ROWS: tl.constexpr):
    """Where the elements of a tile lie."""
    if IS_ROWS:
        return rows.to(tl.int64)[:, None] * channels + cols[None, :]
    start = (rows // inner).to(tl.int64) * channels * inner + rows % inner
    return start[:, None] + cols.to(tl.int64)[None, :] * inner


@triton.jit
def _centred(s, mean):
    return s.to(tl.float32) - mean[None, :]


@triton.jit
def _passed(dy, centred, scale, bias):
    """The gradient that passes the ReLU."""
    return tl.where(centred * scale[None, :] + bias[None, :] <= 0.0, 0.0, dy.to(tl.float32))


@triton.jit
def moments_kernel(
    a_ptr, b_ptr, s_ptr, partial_ptr, num_rows, channels, inner, rows_per_part,
    HAS_B: tl.constexpr, IS_ROWS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """s = a + b; each part's means and sums of squared deviations."""
    part = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    own = cols < channels
    begin = part * rows_per_part
    end = tl.minimum(begin + rows_per_part, num_rows)
    # The first tile's mean is near enough to the part's that no digits are lost in the squares.
    rows = begin + tl.arange(0, BLOCK_R)
    mask = (rows < end)[:, None] & own[None, :]
    at = _offsets(rows, cols, channels, inner, IS_ROWS)
    s = tl.load(a_ptr + at, mask=mask, other=0.0)
    if HAS_B:
        s = (s.to(tl.float32) + tl.load(b_ptr + at, mask=mask, other=0.0).to(tl.float32)).to(s.dtype)
    centre = tl.sum(s.to(tl.float32), axis=0) / tl.minimum(end - begin, BLOCK_R).to(tl.float32)
    first = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    second = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in tl.range(begin, end, BLOCK_R, num_stages=STAGES):
        rows = start + tl.arange(0, BLOCK_R)
        mask = (rows < end)[:, None] & own[None, :]
        at = _offsets(rows, cols, channels, inner, IS_ROWS)
        s = tl.load(a_ptr + at, mask=mask, other=0.0)
        if HAS_B:
            s = (s.to(tl.float32) + tl.load(b_ptr + at, mask=mask, other=0.0).to(tl.float32)).to(s.dtype)
            tl.store(s_ptr + at, s, mask=mask)
        off = tl.where(mask, _centred(s, centre), 0.0)
        first += off
        second += off * off
    # In float64: where the mean is large, its float32 neighbours lie far apart.
    off = tl.sum(first, axis=0).to(tl.float64)
    mean_off = off / (end - begin).to(tl.float64)
    found = partial_ptr + part.to(tl.int64) * 2 * channels + cols
    tl.store(found, centre.to(tl.float64) + mean_off, mask=own)
    tl.store(found + channels, tl.sum(second, axis=0).to(tl.float64) - off * mean_off, mask=own)


@triton.jit
def finish_moments_kernel(
    partial_ptr, mean_ptr, rstd_ptr, var_ptr, eps, num_rows, channels, rows_per_part, num_parts,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Mean, 1/√(var + eps) and unbiased variance from those of the parts."""
    cols = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    own = cols < channels
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float64)
    for start in range(0, num_parts, BLOCK_P):
        parts = start + tl.arange(0, BLOCK_P)
        count = tl.minimum(rows_per_part, num_rows - parts * rows_per_part)
        mask = (parts < num_parts)[:, None] & own[None, :]
        means = tl.load(partial_ptr + parts[:, None] * 2 * channels + cols[None, :], mask=mask, other=0.0)
        total += means * count.to(tl.float64)[:, None]
    mean = tl.sum(total, axis=0) / num_rows
    second = tl.zeros((BLOCK_P, BLOCK_C), tl.float64)
    for start in range(0, num_parts, BLOCK_P):
        parts = start + tl.arange(0, BLOCK_P)
        count = tl.minimum(rows_per_part, num_rows - parts * rows_per_part)
        mask = (parts < num_parts)[:, None] & own[None, :]
        at = partial_ptr + parts[:, None] * 2 * channels + cols[None, :]
        off = tl.load(at, mask=mask, other=0.0) - mean[None, :]
        inside = tl.load(at + channels, mask=mask, other=0.0)
        second += tl.where(mask, inside + off * off * count.to(tl.float64)[:, None], 0.0)
    squares = tl.sum(second, axis=0)
    tl.store(mean_ptr + cols, mean.to(tl.float32), mask=own)
    tl.store(rstd_ptr + cols, (1.0 / tl.sqrt(squares / num_rows + eps)).to(tl.float32), mask=own)
    tl.store(var_ptr + cols, (squares / (num_rows - 1)).to(tl.float32), mask=own)


@triton.jit
def _inverse_deviation(ptr, cols, own, eps, TRAIN: tl.constexpr):
    """1/√(var + eps): given in training, taken of the variance in evaluation."""
    value = tl.load(ptr + cols, mask=own, other=1.0)
    if TRAIN:
        return value
    return 1.0 / tl.sqrt(value + eps)


@triton.jit
def activate_kernel(
    a_ptr, b_ptr, s_ptr, y_ptr, weight_ptr, bias_ptr, mean_ptr, spread_ptr, eps,
    num_rows, channels, inner, rows_per_part,
    HAS_B: tl.constexpr, TRAIN: tl.constexpr, IS_ROWS: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """y, and s with ``HAS_B``. The last rows come first: of pass 1 they are still in the cache."""
    part = tl.num_programs(0) - 1 - tl.program_id(0)
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    own = cols < channels
    mean = tl.load(mean_ptr + cols, mask=own, other=0.0)
    bias = tl.load(bias_ptr + cols, mask=own, other=0.0)
    scale = tl.load(weight_ptr + cols, mask=own, other=0.0) * _inverse_deviation(spread_ptr, cols, own, eps, TRAIN)
    begin = part * rows_per_part
    end = tl.minimum(begin + rows_per_part, num_rows)
    for start in tl.range(begin, end, BLOCK_R, num_stages=STAGES):
        rows = start + tl.arange(0, BLOCK_R)
        mask = (rows < end)[:, None] & own[None, :]
        at = _offsets(rows, cols, channels, inner, IS_ROWS)
        s = tl.load(a_ptr + at, mask=mask, other=0.0)
        if HAS_B:
            s = (s.to(tl.float32) + tl.load(b_ptr + at, mask=mask, other=0.0).to(tl.float32)).to(s.dtype)
            tl.store(s_ptr + at, s, mask=mask)
        y = _centred(s, mean) * scale[None, :] + bias[None, :]
        y = tl.where(y < 0.0, 0.0, y)  # NaN stays
        tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def gradients_kernel(
    dy_ptr, s_ptr, partial_ptr, weight_ptr, bias_ptr, mean_ptr, spread_ptr, eps,
    num_rows, channels, inner, rows_per_part,
    TRAIN: tl.constexpr, IS_ROWS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Each part's sums of g and g·(s - mean)."""
    part = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    own = cols < channels
    mean = tl.load(mean_ptr + cols, mask=own, other=0.0)
    bias = tl.load(bias_ptr + cols, mask=own, other=0.0)
    scale = tl.load(weight_ptr + cols, mask=own, other=0.0) * _inverse_deviation(spread_ptr, cols, own, eps, TRAIN)
    begin = part * rows_per_part
    end = tl.minimum(begin + rows_per_part, num_rows)
    first = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    second = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in tl.range(begin, end, BLOCK_R, num_stages=STAGES):
        rows = start + tl.arange(0, BLOCK_R)
        mask = (rows < end)[:, None] & own[None, :]
        at = _offsets(rows, cols, channels, inner, IS_ROWS)
        centred = _centred(tl.load(s_ptr + at, mask=mask, other=0.0), mean)
        g = _passed(tl.load(dy_ptr + at, mask=mask, other=0.0), centred, scale, bias)
        first += g
        second += g * centred
    found = partial_ptr + part.to(tl.int64) * 2 * channels + cols
    tl.store(found, tl.sum(first, axis=0).to(tl.float64), mask=own)
    tl.store(found + channels, tl.sum(second, axis=0).to(tl.float64), mask=own)


@triton.jit
def finish_gradients_kernel(
    partial_ptr, spread_ptr, dweight_ptr, dbias_ptr, eps, channels, num_parts,
    TRAIN: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of weight and bias from the sums of the parts."""
    cols = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    own = cols < channels
    first = tl.zeros((BLOCK_P, BLOCK_C), tl.float64)
    second = tl.zeros((BLOCK_P, BLOCK_C), tl.float64)
    for start in range(0, num_parts, BLOCK_P):
        parts = start + tl.arange(0, BLOCK_P)
        mask = (parts < num_parts)[:, None] & own[None, :]
        at = partial_ptr + parts[:, None] * 2 * channels + cols[None, :]
        first += tl.load(at, mask=mask, other=0.0)
        second += tl.load(at + channels, mask=mask, other=0.0)
    rstd = _inverse_deviation(spread_ptr, cols, own, eps, TRAIN)
    tl.store(dweight_ptr + cols, (tl.sum(second, axis=0) * rstd).to(tl.float32), mask=own)
    tl.store(dbias_ptr + cols, tl.sum(first, axis=0).to(tl.float32), mask=own)


@triton.jit
def differentiate_kernel(
    dy_ptr, ds_ptr, s_ptr, dx_ptr, weight_ptr, bias_ptr, mean_ptr, spread_ptr, dweight_ptr, dbias_ptr, eps,
    num_rows, channels, inner, rows_per_part,
    HAS_DS: tl.constexpr, TRAIN: tl.constexpr, IS_ROWS: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dx; in training less the shares of mean and variance."""
    part = tl.num_programs(0) - 1 - tl.program_id(0)
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    own = cols < channels
    mean = tl.load(mean_ptr + cols, mask=own, other=0.0)
    bias = tl.load(bias_ptr + cols, mask=own, other=0.0)
    rstd = _inverse_deviation(spread_ptr, cols, own, eps, TRAIN)
    scale = tl.load(weight_ptr + cols, mask=own, other=0.0) * rstd
    constant = tl.zeros((BLOCK_C,), tl.float32)
    slope = tl.zeros((BLOCK_C,), tl.float32)
    if TRAIN:
        constant = tl.load(dbias_ptr + cols, mask=own, other=0.0) / num_rows
        slope = rstd * tl.load(dweight_ptr + cols, mask=own, other=0.0) / num_rows
    begin = part * rows_per_part
    end = tl.minimum(begin + rows_per_part, num_rows)
    for start in tl.range(begin, end, BLOCK_R, num_stages=STAGES):
        rows = start + tl.arange(0, BLOCK_R)
        mask = (rows < end)[:, None] & own[None, :]
        at = _offsets(rows, cols, channels, inner, IS_ROWS)
        centred = _centred(tl.load(s_ptr + at, mask=mask, other=0.0), mean)
        dx = _passed(tl.load(dy_ptr + at, mask=mask, other=0.0), centred, scale, bias)
        if TRAIN:
            dx = dx - constant[None, :] - centred * slope[None, :]
        dx = dx * scale[None, :]
        if HAS_DS:
            dx += tl.load(ds_ptr + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=mask)
