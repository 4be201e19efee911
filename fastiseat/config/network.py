"""Which network, and where its first weights come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from fastiseat.fields import check_types, require, require_text
from fastiseat.names.networks import Initialization, Variant, canonical_arch, check_variant, in_help


@dataclass(frozen=True, kw_only=True)
class Network:
    """Which network, and where its first weights come from."""

    arch: Annotated[str, arg(help=f"{in_help()}. Paper: wrn-34-10 on CIFAR-10, else prn18.")] = "small"
    variant: Variant = "released"
    """Whose code's network. released: the authors'. common: RobustBench's and TRADES'. Of small and prn18 alone, with
    no BatchNorm after the last block: released-no-bn (RobustBench's Wong2020Fast), common-no-bn (pytorch-cifar),
    consistency (Tack et al., with one after the stem), consistency-stride-2 (the same on Tiny ImageNet)."""
    initialization: Initialization = "torch"
    """How the first weights are drawn. torch: PyTorch's defaults (released code; PreActResNets in other papers' codes).
    he: convolutions from N(0, 2/(k²·out)), the head's bias 0 (Wide ResNets in TRADES' and Rice's codes and those built
    on them)."""
    mean: tuple[float, ...] = ()
    """What is subtracted from images in [0, 1] before all else, for all colour planes or for each; with --std. ε stays
    in pixel values. None by default; Rice et al., Wu et al.: the data set's."""
    std: tuple[float, ...] = ()
    """What they are divided by then."""
    init: Path | None = None
    """Start from this file's weights (.safetensors, the authors' or RobustBench's .pt), or from the best ones of this
    run's folder. arch and variant are by default those of the weights."""

    def __post_init__(self) -> None:
        check_types(self)
        require_text(init=self.init)
        object.__setattr__(self, "arch", canonical_arch(self.arch))
        require(
            bool(self.mean) == bool(self.std),
            "mean" if self.mean else "std",
            " ".join(map(str, self.mean or self.std)),
            "says no normalisation alone; give both --mean and --std, or none of them",
        )
        check_variant(self.arch, self.variant)
