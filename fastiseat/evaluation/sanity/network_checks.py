"""What a network's answers say before any attack: whether they are the same each time, and whether they are logits."""

from __future__ import annotations

import torch
from torch import Tensor

from fastiseat.engine.restore import own_randomness
from fastiseat.evaluation.passes import EvaluationPasses
from fastiseat.evaluation.sanity.masking import Check

# Images that are looked at alone too.
_ALONE = 8
# Shares of the largest logit, above what rounding does; another batch size is another algorithm of a library.
_REPEATED, _BATCHED = 1e-4, 1e-3
_SUM = 1e-4


def checks_of_network(passes: EvaluationPasses, images: Tensor, *, seed: int) -> list[Check]:
    """Of images (n, C, H, W) as the network reads them."""
    images = images[:_ALONE]
    with own_randomness(images.device, seed):
        once, again = passes.logits(images), passes.logits(images)
        alone = torch.cat([passes.logits(image) for image in images.split(1)])
    return [_deterministic(once, again, alone), _logits(once)]


def _deterministic(once: Tensor, again: Tensor, alone: Tensor) -> Check:
    scale = once.abs().max().clamp_min(1e-30)
    repeated, batched = (float((other - once).abs().max() / scale) for other in (again, alone))
    if not repeated <= _REPEATED:  # written so that a NaN differs too
        return Check("deterministic", f"the same images twice: logits differ by {repeated:.1%}", suspicious=True)
    if not batched <= _BATCHED:
        finding = f"alone and in a batch: logits of an image differ by {batched:.1%}"
        return Check("deterministic", finding, suspicious=True)
    return Check("deterministic", "the same logits twice, and alone as in a batch", suspicious=False)


def _logits(found: Tensor) -> Check:
    low, high = (float(end) for end in found.aminmax())
    sums = (found.sum(1) - 1).abs().max()
    if low >= 0 and high <= 1 + _SUM and sums < _SUM:
        finding = "outputs are probabilities, whose cross entropy hides gradients: return logits"
        return Check("logits", finding, suspicious=True)
    return Check("logits", f"outputs from {low:.4g} to {high:.4g}", suspicious=False)
