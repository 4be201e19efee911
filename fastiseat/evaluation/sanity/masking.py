"""What the attacks on a network say of its gradients, and by which rules.

Each rule allows for chance: a share of the samples that an honest network may lose too, and a level of 1 in 100. Two
attacks are compared on the samples that only one of them broke.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fastiseat.evaluation.pgd_trace import Bools, PGDTrace
from fastiseat.evaluation.sanity.chance import beyond, outnumber

# What may break by Square alone, or have no gradient: PGD misses some of an honest network's samples too.
MISSED = 0.02
# What PGD may fail to break in a ball so large that nothing can be robust in it.
LEFT = 0.05
# A loss that is linear in ε rises twice as far at 2ε.
_LEAST_RISE = 1.1


@dataclass(frozen=True)
class Check:
    """One line on a network: ``finding`` in words and numbers, and whether it speaks for masked gradients."""

    name: str
    finding: str
    suspicious: bool


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Climbs of n samples, at ε where nothing else is said; ``square``, bool (n,), which ones withstood it."""

    eps: float
    clean: PGDTrace
    fgsm: PGDTrace
    at_image: PGDTrace
    at_random: PGDTrace
    on_margin: PGDTrace
    """PGD on the margin: of a linear network, the cross entropy alone would miss a tenth of what Square breaks."""
    square: Bools
    queries: int
    larger: PGDTrace | None = None
    """At 2ε."""
    unbounded: PGDTrace | None = None
    unbounded_eps: float = 0.0

    @property
    def size(self) -> int:
        """n."""
        return len(self.square)

    def share(self, robust: Bools) -> str:
        """So many of n in digits."""
        return f"{int(robust.sum())}/{self.size}"


def checks_of(evidence: Evidence) -> list[Check]:
    """All that there is evidence for."""
    return [
        _gradients(evidence),
        _black_box(evidence),
        _more_steps(evidence),
        _one_step(evidence),
        _random_start(evidence),
        *_larger_eps(evidence),
        *_unbounded(evidence),
    ]


def _gradients(found: Evidence) -> Check:
    count = int(found.at_image.useless.sum())
    finding = f"zero or no number at {count} of {found.size} images"
    return Check("gradients", finding, beyond(count, found.size, MISSED))


def _black_box(found: Evidence) -> Check:
    spared = found.at_image.spared & found.at_random.spared & found.on_margin.spared
    alone = int((spared & ~found.square).sum())
    finding = (
        f"Square of {found.queries} queries {found.share(found.square)} robust, PGD-50 on cross entropy or margin "
        f"{found.share(spared)}; {alone} broken by Square alone"
    )
    return Check("black box", finding, beyond(alone, found.size, MISSED))


def _more_steps(found: Evidence) -> Check:
    return _compared("more steps", found, "PGD-10", found.at_image.early)


def _one_step(found: Evidence) -> Check:
    return _compared("one step", found, "FGSM", found.fgsm.robust)


def _random_start(found: Evidence) -> Check:
    return _compared("random start", found, "PGD-50 from a random start", found.at_random.robust)


def _compared(name: str, found: Evidence, other: str, robust: Bools) -> Check:
    """PGD-50 from the image with an attack that should not do better."""
    reference = found.at_image.robust
    alone, only_reference = _discordant(robust, reference)
    finding = (
        f"{other} {found.share(robust)} robust, PGD-50 {found.share(reference)}; {alone} and {only_reference} broken "
        "by one alone"
    )
    return Check(name, finding, outnumber(alone, only_reference))


def _discordant(one: Bools, other: Bools) -> tuple[int, int]:
    """How many only the first attack broke, and only the second."""
    return int((~one & other).sum()), int((one & ~other).sum())


def _larger_eps(found: Evidence) -> Iterator[Check]:
    if found.larger is None:
        return
    losses = [float(np.mean(climb.losses)) for climb in (found.clean, found.at_image, found.larger)]
    robust = found.at_image.robust, found.larger.robust
    finding = (
        f"mean loss {losses[0]:.4g} without an attack, {losses[1]:.4g} at ε = {found.eps:.4g}, {losses[2]:.4g} at 2ε; "
        f"{found.share(robust[0])} and {found.share(robust[1])} robust"
    )
    flat = losses[2] - losses[0] <= _LEAST_RISE * max(losses[1] - losses[0], 0.0)
    # A loss that is as high as it gets has no further to rise.
    stays = flat and beyond(int(robust[1].sum()), found.size, LEFT)
    yield Check("larger ε", finding, stays or outnumber(*_discordant(*robust)))


def _unbounded(found: Evidence) -> Iterator[Check]:
    if found.unbounded is None:
        return
    robust = found.unbounded.robust
    finding = (
        f"PGD-50 at ε = {found.unbounded_eps:.4g}, which holds a grey image of each: {found.share(robust)} robust"
    )
    yield Check("unbounded", finding, beyond(int(robust.sum()), found.size, LEFT))
