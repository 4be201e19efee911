"""What the kernels can serve, one block on a device for one: all ranks of a batch are its own."""

from __future__ import annotations

from torch import Tensor
from torch.nn import Parameter

from fastiseat.kernels.core.fit import unserved
from fastiseat.kernels.stability_loss.arguments import Arguments
from fastiseat.kernels.stability_loss.reference import num_top

MOST_SAMPLES = 1024
MOST_CLASSES = 1000

WEIGHTINGS = {"top": 0, "uniform": 0, "linear": 1}
"""The weightings that the kernels have, by the codes of ``csrc/stability_loss.h``; all of a batch is a top."""
DISTANCES = {"l2": 0, "kl": 1}
"""Likewise the distances."""


def unfit(call: Arguments) -> str:
    """Why native code cannot serve this call; empty when it can. A CPU's takes any size."""
    return _unfit_anywhere(call) if call.logits.is_cpu else unfit_for_one_block(call)


def unfit_for_one_block(call: Arguments) -> str:
    """Why one block cannot serve this call; empty when it can."""
    m, num_classes = call.logits.shape
    if m > MOST_SAMPLES or num_classes > MOST_CLASSES:
        return (
            f"a batch of {m} with {num_classes} classes is more than one block serves, "
            f"{MOST_SAMPLES} with {MOST_CLASSES}"
        )
    return _unfit_anywhere(call)


def _unfit_anywhere(call: Arguments) -> str:
    """A gradient is no hindrance: the op has its own."""
    if any(type(tensor) not in (Tensor, Parameter) for tensor in (call.logits, call.clean_logits, call.labels)):
        return "an argument is no plain tensor"
    return unserved("weighting", call.weighting, WEIGHTINGS) or unserved("distance", call.distance, DISTANCES)


def num_weighted(call: Arguments) -> int:
    """How many of the highest ranks weigh 1 where the weighting is not linear."""
    num_samples = len(call.logits)
    return num_top(num_samples, call.top) if call.weighting == "top" else num_samples
