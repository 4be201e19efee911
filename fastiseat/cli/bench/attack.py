"""What ``fastiseat bench attack`` is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastiseat.cli.target import weights_file
from fastiseat.config import Pixels
from fastiseat.errors import UserError
from fastiseat.names.balls import Norm

if TYPE_CHECKING:
    from fastiseat.bench.attack.suite import Attacks
    from fastiseat.bench.presets import Preset


@dataclass(frozen=True, kw_only=True)
class AttackOptions:
    """Of bench attack alone, which takes --dataset, --batch-size, --engine, --precision and --baseline too."""

    weights: Path | None = None
    """bench attack: what is attacked, a run's directory or a weights file; without it only the preset for CPUs has
    a network, which it trains on digits first."""
    eps: Pixels | None = None
    """bench attack: ε; default: what the network was trained with."""
    norm: Norm = "linf"
    """bench attack: of the ball."""
    subset: int | None = None
    """bench attack: so many test images, of all classes alike."""
    unbroken: int | None = None
    """bench attack: also so many images, classified correctly, with ε = 1e-4, where nothing succeeds and nothing is
    saved by leaving early; 0 for none, default: a batch."""
    part: tuple[Literal["apgd-ce", "apgd-t", "fab-t", "square"], ...] = ()
    """bench attack: only these parts of AutoAttack."""

    def attacks(
        self,
        base: Preset,
        *,
        datasets: tuple[str, ...],
        batch_sizes: tuple[int, ...],
        variants: tuple[tuple[str, str], ...],
        official: bool,
        rounds: int,
    ) -> Attacks:
        """As the measurement takes it; what is not given is the preset's."""
        from fastiseat.bench.attack.inputs import PARTS, AttackCase
        from fastiseat.bench.attack.suite import Attacks

        if len(datasets) > 1 and self.weights is not None:
            raise UserError(f"--dataset {' '.join(datasets)}: one network is for one data set; name that one")
        arch, dataset, images, batch_size = base.attacked
        if datasets or self.weights is not None:
            dataset = datasets[0] if datasets else ""
        sizes = batch_sizes or (batch_size,)
        cases = tuple(
            AttackCase(
                arch=arch,
                dataset=dataset,
                subset=images if self.subset is None else self.subset,
                batch_size=size,
                unbroken=size if self.unbroken is None else self.unbroken,
                weights=None if self.weights is None else weights_file(self.weights, "best"),
                eps=self.eps,
                norm=self.norm,
                parts=tuple(part for part in PARTS if part in self.part) or PARTS,
            )
            for size in sizes
        )
        return Attacks(cases=cases, variants=variants, official=official, rounds=rounds)
