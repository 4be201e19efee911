"""What makes two runs of one recipe differ, and how a machine computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastiseat.fields import MOST_STEPS, check_types, require, require_count, require_seed

_MOST_THREADS = 4096  # more than machines have cores

WhichWeights = Literal["best", "last"]
"""The weights that every finished epoch leaves in a run; all that chooses among them derives from these names."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What makes two runs of one recipe the same or different."""

    seed: int = 0
    """Seed of the first weights, the order of the images and the random starts."""
    amp: bool = False
    """Compute in half precision: bf16 on NVIDIA Ampere and later and on CPUs with bf16 instructions, fp16 on older
    GPUs, float32 with a notice elsewhere. Weights, BatchNorm's statistics, δ, losses and ranks stay float32."""
    amp_dtype: Literal["bf16", "fp16"] | None = None
    """Which of them amp is to take, whatever the device is good at; the other works and may be slow."""
    tf32: bool = True
    """Without amp, let convolutions round what they multiply to TF32's 10 bits on NVIDIA Ampere and later, PyTorch's
    default; no-tf32 keeps all of float32. Evaluation always does."""
    deterministic: bool = False
    """Bit-identical repetition on CUDA too, at some cost in speed; on a CPU every run is."""
    final_steps: int = 50
    """Steps of the PGD that attacks the finished network, best and last weights; 0 leaves it out. Paper's
    analyses: 50."""

    def __post_init__(self) -> None:
        check_types(self)
        require_seed(self.seed)
        if self.amp_dtype is not None:
            rule = "says what amp computes in: add --amp, or leave it out"
            require(self.amp, "amp_dtype", self.amp_dtype, rule)
        require_count(0, "final_steps", self.final_steps, most=MOST_STEPS)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a machine computes the step: another choice rounds otherwise and is the same training."""

    engine: Literal["auto", "eager", "graph", "tape", "compile"] = "auto"
    """eager: call by call. graph: the whole step as one CUDA graph. compile: the network by torch.compile. tape: the
    graph's proof on a CPU, slower than eager. auto: graph on a GPU where the step can be recorded, else eager."""
    clean_graph: Literal["keep", "recompute", "auto"] = "auto"
    """The clean pass's graph, where λ ≠ 0: keep it (28 units an ISEAT step), or recompute it when its gradient is due
    (29 units, half the activations). auto: keep, unless memory runs out in the first such step."""
    overlap: bool = False
    """With engine graph, where λ ≠ 0: run the clean pass and its backward on a second CUDA stream, beside the
    adversarial backward."""
    checkpoint_blocks: bool = False
    """Keep only the residual blocks' inputs for the backward and recompute the rest: the same results for less memory
    and a forward more in each backward."""

    threads: int | None = None
    """PyTorch's threads on a CPU; the count decides how sums are rounded. Default: that of the run that is resumed or
    repeated by --config, else OMP_NUM_THREADS, else all cores or, where the network is small, one if that is faster
    at the start."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.threads is not None:
            require_count(1, "threads", self.threads, most=_MOST_THREADS)
