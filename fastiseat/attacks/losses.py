"""Losses that attacks climb, one value a sample, from logits (m, classes), labels (m,) and target classes (m,)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fastiseat.attacks.search.protocol import at_class
from fastiseat.errors import unknown

LOSSES = ("ce", "dlr-t", "margin-t", "margin")


def losses_of(name: str, logits: Tensor, labels: Tensor, target: Tensor) -> Tensor:
    """(m,): ``ce``, cross entropy; ``margin``, how far the best wrong class leads; ``dlr-t`` and ``margin-t``.

    ``margin-t`` is how far the target leads the label, ``dlr-t`` that lead divided by the distance of the highest
    logit from the mean of the third and fourth: Croce and Hein, 2020, Eq. 7; it needs four classes.
    """
    match name:
        case "ce":
            return F.cross_entropy(logits, labels, reduction="none")
        case "margin":
            return -margins(logits, labels)
        case "margin-t":
            return at_class(logits, target) - at_class(logits, labels)
        case "dlr-t":
            first, _, third, fourth = logits.topk(4, dim=1).values.unbind(1)
            lead = at_class(logits, target) - at_class(logits, labels)
            return lead / (first - (third + fourth) / 2 + 1e-12)
    raise unknown("loss of an attack", name, LOSSES)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """(m,): how far the label's logit leads the highest other one; negative where the network is wrong."""
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return at_class(logits, labels) - others.amax(1)
