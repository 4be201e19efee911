"""What the library is timed against: the training step as users write it from the papers.

Each baseline is built as ``BASELINES[name].build(model, eps=..., step_size=..., lr=..., lam=..., gamma=...)``,
trains that model by ``step(x, y) -> dict of tensors`` and has it as ``model``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch

from fastiseat.bench.baselines.compiled import CompiledCareful, CompiledNaive
from fastiseat.bench.baselines.eager import EagerBaseline

__all__ = ["BASELINES", "Baseline", "CompiledCareful", "CompiledNaive", "EagerBaseline"]


class Baseline(NamedTuple):
    """How to build one, what it is, and its cost a step."""

    build: Callable[..., EagerBaseline]
    """Takes the model and the settings of :class:`EagerBaseline`, which override the entry's own."""
    description: str
    """One line for a table of results."""
    units: Mapping[str, int]
    """Passes a step with 10 attack steps, by method: forwards, input- and weight-gradient backwards alike 1."""
    precision: str = "full"
    """What its convolutions compute in: ``full`` (float32), ``bf16`` or ``fp16``."""
    tf32: bool = True
    """Whether float32 convolutions may use TF32, as PyTorch's defaults allow."""


# The attack's 10 weight-gradient backwards come on top, where it computes them.
EAGER_UNITS = {"at": 23, "at-awp": 26, "lsi": 25, "iseat": 29}
WASTEFUL_UNITS = {"at": 33, "at-awp": 36, "lsi": 35, "iseat": 39}
# The compiled ones compute LSI's clean pass twice, one unit more than eager's.
NAIVE_UNITS = {**WASTEFUL_UNITS, "lsi": 36}
CAREFUL_UNITS = {**EAGER_UNITS, "lsi": 26}

# bf16 on Ampere and later, fp16 on the cards before it.
HALF = (("", "bf16", torch.bfloat16), ("-fp16", "fp16", torch.float16))

BASELINES = {
    "eager": Baseline(EagerBaseline, "PyTorch's defaults, proxy model for the weight perturbation", EAGER_UNITS),
    "eager-strict": Baseline(
        partial(EagerBaseline, strict=True),
        "the same without TF32: every product in float32",
        EAGER_UNITS,
        tf32=False,
    ),
    "eager-wasteful": Baseline(
        partial(EagerBaseline, attack_weight_gradients=True),
        "eager, its attack computing weight gradients and dropping them",
        WASTEFUL_UNITS,
    ),
    "eager-bf16": Baseline(
        partial(EagerBaseline, amp_dtype=torch.bfloat16, channels_last=True),
        "eager, autocast to bf16, channels-last",
        EAGER_UNITS,
        precision="bf16",
    ),
    "eager-fp16": Baseline(
        partial(EagerBaseline, amp_dtype=torch.float16, channels_last=True),
        "eager, autocast to fp16 with a GradScaler, channels-last",
        EAGER_UNITS,
        precision="fp16",
    ),
    **{
        f"compile-naive{suffix}": Baseline(
            partial(CompiledNaive, amp_dtype=dtype, channels_last=True),
            f"torch.compile(model), {precision}, channels-last; the attack computes weight gradients unasked",
            NAIVE_UNITS,
            precision=precision,
        )
        for suffix, precision, dtype in HALF
    },
    **{
        f"compile-careful{suffix}": Baseline(
            partial(CompiledCareful, amp_dtype=dtype, channels_last=True),
            f"torch.compile with reduce-overhead, {precision}, channels-last; the attack on detached parameters",
            CAREFUL_UNITS,
            precision=precision,
        )
        for suffix, precision, dtype in HALF
    },
}
"""By name."""
