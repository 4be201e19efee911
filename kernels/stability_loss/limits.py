"""What one block on a device can serve: all ranks of a batch are its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import Parameter

MOST_SAMPLES = 1024
MOST_CLASSES = 1000


def unfit_for_one_block(logits: Tensor, clean_logits: Tensor, labels: Tensor, **choices: Any) -> str:
    """Why one block cannot serve this call; empty when it can."""
    m, num_classes = logits.shape
    if m > MOST_SAMPLES or num_classes > MOST_CLASSES:
        return (
            f"a batch of {m} with {num_classes} classes is more than one block serves, "
            f"{MOST_SAMPLES} with {MOST_CLASSES}"
        )
    return unfit_anywhere(logits, clean_logits, labels)


def unfit_anywhere(logits: Tensor, clean_logits: Tensor, labels: Tensor, **choices: Any) -> str:
    """Why no kernel can read these. A gradient is no hindrance: the op has its own."""
    if any(type(tensor) not in (Tensor, Parameter) for tensor in (logits, clean_logits, labels)):
        return "an argument is no plain tensor"
    return ""
