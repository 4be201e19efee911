"""The one rule by which attacks, evaluations and metrics tell whether an answer is right."""

from __future__ import annotations

from torch import Tensor


def is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """bool (m,): whether the label (m,) has the highest of the logits (m, classes), all of them finite numbers.

    ``argmax`` takes a NaN for the highest one: by it alone a network that answers nothing else would be right about
    all of class 0. An infinite logit, the label's own too, is an overflow and no answer.
    """
    return (logits.argmax(1) == labels) & is_answer(logits)


def is_answer(logits: Tensor) -> Tensor:
    """bool (m,): whether all logits (m, classes) of a sample are finite numbers."""
    return logits.isfinite().all(1)
