"""``stability_loss`` in Triton: one program for the batch, as every rank depends on every loss."""

# What the arguments of a kernel are on the device has no Python type.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import triton
import triton.language as tl

from fastiseat.kernels.core.flat import split_number
from fastiseat.kernels.stability_loss.arguments import Arguments
from fastiseat.kernels.stability_loss.limits import DISTANCES, WEIGHTINGS, num_weighted
from fastiseat.kernels.stability_loss.native import new_results
from fastiseat.kernels.stability_loss.reference import Results

TILE = 4096
"""Elements that the program holds of an array at once."""
_TOP, _LINEAR = tl.constexpr(WEIGHTINGS["top"]), tl.constexpr(WEIGHTINGS["linear"])
_L2, _KL = tl.constexpr(DISTANCES["l2"]), tl.constexpr(DISTANCES["kl"])


def stability_loss(call: Arguments) -> Results:
    """``fastiseat.kernels.stability_loss`` for at most 1,024 samples and 1,000 classes."""
    m, num_classes = call.logits.shape
    results = new_results(call.logits)
    block_c = max(16, triton.next_power_of_2(num_classes))
    block_m = max(4, min(triton.next_power_of_2(m), TILE // block_c))
    lam, lam_tensor = split_number(call.lam)
    _stability_loss[(1,)](
        call.logits.detach().contiguous(),
        call.clean_logits.detach().contiguous(),
        call.labels.contiguous(),
        lam,
        lam_tensor,
        *results,
        m,
        num_classes,
        float(m),
        num_weighted(call),
        WEIGHTING=WEIGHTINGS[call.weighting],
        DISTANCE=DISTANCES[call.distance],
        HAS_LAM_TENSOR=lam_tensor is not None,
        BLOCK_M=block_m,
        BLOCK_C=block_c,
        BLOCK_J=TILE // block_m,
        num_warps=8,
        num_stages=1,
    )
    return results


@triton.jit
def _log_softmax(z, is_class):
    shifted = z - tl.max(tl.where(is_class, z, -float("inf")), axis=1)[:, None]
    sums = tl.sum(tl.where(is_class, tl.exp(shifted), 0.0), axis=1)
    return shifted - tl.log(sums)[:, None]


@triton.jit
def _losses(log_p, labels, columns, num_classes):
    picked = tl.sum(tl.where(columns[None, :] == labels[:, None], -log_p, 0.0), axis=1)
    return tl.where((labels >= 0) & (labels < num_classes), picked, float("nan"))


@triton.jit
def _precede(v_j, j, v_i, i):
    """Whether j comes before i: the higher first, NaN before all, equals in order of index."""
    j_nan, i_nan = v_j != v_j, v_i != v_i
    equal = (v_j == v_i) | (j_nan & i_nan)
    return (v_j > v_i) | (j_nan & (v_i == v_i)) | (equal & (j < i))


@triton.jit
def _ranks(losses_pointer, clean_losses_pointer, rows, m, BLOCK_M: tl.constexpr, BLOCK_J: tl.constexpr):
    """How many of all m samples come before each of these, by losses that every thread can read."""
    v = tl.load(losses_pointer + rows, mask=rows < m, other=0.0)
    v -= tl.load(clean_losses_pointer + rows, mask=rows < m, other=0.0)
    before = tl.zeros((BLOCK_M, BLOCK_J), tl.int32)
    for first in range(0, m, BLOCK_J):
        others = first + tl.arange(0, BLOCK_J)
        v_j = tl.load(losses_pointer + others, mask=others < m, other=0.0)
        v_j -= tl.load(clean_losses_pointer + others, mask=others < m, other=0.0)
        precedes = _precede(v_j[None, :], others[None, :], v[:, None], rows[:, None])
        before += (precedes & (others[None, :] < m)).to(tl.int32)
    return tl.sum(before, axis=1)


@triton.jit
def _distances(z, clean, is_class, DISTANCE: tl.constexpr):
    """d of each row, and its gradients for both."""
    if DISTANCE == _KL:
        log_p, log_clean = _log_softmax(z, is_class), _log_softmax(clean, is_class)
        p = tl.exp(log_clean)
        ratios = tl.where(p == 0.0, 0.0, log_clean - log_p)
        distances = tl.sum(tl.where(is_class, p * ratios, 0.0), axis=1)
        of_logits = tl.exp(log_p) - p
        of_clean = p * (ratios - distances[:, None])
    else:
        tl.static_assert(DISTANCE == _L2, "a choice that it does not serve")
        gaps = z - clean
        distances = tl.sum(tl.where(is_class, gaps * gaps, 0.0), axis=1)
        of_logits = 2.0 * gaps
        of_clean = -of_logits
    return distances, of_logits, of_clean


@triton.jit
def _stability_loss(
    logits_pointer,
    clean_logits_pointer,
    labels_pointer,
    lam,
    lam_pointer,
    total_pointer,
    adversarial_pointer,
    stability_pointer,
    losses_pointer,
    clean_losses_pointer,
    weights_pointer,
    of_adversarial_pointer,
    of_stability_pointer,
    of_stability_clean_pointer,
    m,
    num_classes,
    m_as_float,
    num_weighted,
    WEIGHTING: tl.constexpr,
    DISTANCE: tl.constexpr,
    HAS_LAM_TENSOR: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    factor = lam
    if HAS_LAM_TENSOR:
        factor = tl.load(lam_pointer)
    columns = tl.arange(0, BLOCK_C)
    is_class = columns[None, :] < num_classes
    loss_sums = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, m, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        at = rows[:, None] * num_classes + columns[None, :]
        inside = (rows[:, None] < m) & is_class
        labels = tl.load(labels_pointer + rows, mask=rows < m, other=0)
        log_p = _log_softmax(tl.load(logits_pointer + at, mask=inside, other=0.0).to(tl.float32), is_class)
        losses = _losses(log_p, labels, columns, num_classes)
        loss_sums += tl.where(rows < m, losses, 0.0)
        tl.store(losses_pointer + rows, losses, mask=rows < m)
        one_hot = tl.where(columns[None, :] == labels[:, None], 1.0, 0.0)
        tl.store(of_adversarial_pointer + at, (tl.exp(log_p) - one_hot) / m_as_float, mask=inside)
        clean = tl.load(clean_logits_pointer + at, mask=inside, other=0.0).to(tl.float32)
        clean_losses = _losses(_log_softmax(clean, is_class), labels, columns, num_classes)
        tl.store(clean_losses_pointer + rows, clean_losses, mask=rows < m)

    tl.debug_barrier()  # from here on each thread reads losses that others wrote

    distance_sums = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, m, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        at = rows[:, None] * num_classes + columns[None, :]
        inside = (rows[:, None] < m) & is_class
        ranks = _ranks(losses_pointer, clean_losses_pointer, rows, m, BLOCK_M, BLOCK_J)
        if WEIGHTING == _LINEAR:
            weights = 1.0 - tl.div_rn(ranks.to(tl.float32), tl.zeros((BLOCK_M,), tl.float32) + m_as_float)
        else:
            tl.static_assert(WEIGHTING == _TOP, "a choice that it does not serve")
            weights = tl.where(ranks < num_weighted, 1.0, 0.0)
        tl.store(weights_pointer + rows, weights, mask=rows < m)

        z = tl.load(logits_pointer + at, mask=inside, other=0.0).to(tl.float32)
        clean = tl.load(clean_logits_pointer + at, mask=inside, other=0.0).to(tl.float32)
        scale = (factor * weights / m_as_float)[:, None]
        distances, of_logits, of_clean = _distances(z, clean, is_class, DISTANCE)
        tl.store(of_stability_pointer + at, scale * of_logits, mask=inside)
        tl.store(of_stability_clean_pointer + at, scale * of_clean, mask=inside)
        distance_sums += tl.where(rows < m, weights * distances, 0.0)

    adversarial = tl.sum(loss_sums, axis=0) / m_as_float
    stability = factor * (tl.sum(distance_sums, axis=0) / m_as_float)
    tl.store(adversarial_pointer, adversarial)
    tl.store(stability_pointer, stability)
    tl.store(total_pointer, adversarial + stability)
