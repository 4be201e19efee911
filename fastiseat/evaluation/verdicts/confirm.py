"""An attack that half precision makes cheaper, and not weaker."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fastiseat.evaluation.attack import Attack, EnsembleAttack
from fastiseat.evaluation.robustness import Evaluator
from fastiseat.pipelines.protocol.base import Split


def gains_from_half(attack: Attack | EnsembleAttack) -> bool:
    """Whether half precision may look first.

    Random starts are drawn for whole batches: with some samples gone, the others would start elsewhere, and more of
    them might be spared. So an attack with restarts stays in full precision.
    """
    return isinstance(attack, EnsembleAttack) or (attack.steps > 0 and attack.restarts == 1)


def confirmed(
    full: Evaluator,
    half: Evaluator,
    split: Split,
    attack: Attack,
    *,
    seed: int,
    progress: Callable[[int], None],
) -> npt.NDArray[np.bool_]:
    """bool (n,): robust against what half precision finds, by a pass in full, and then against all of the attack.

    Never more samples than ``full`` alone would call robust.
    """
    robust = half(split, attack, seed=seed)
    rows = np.flatnonzero(robust)
    gone = len(split) - len(rows)
    progress(gone)
    if len(rows):
        robust[rows] = full(split.take(rows), attack, seed=seed, progress=lambda done: progress(gone + done))
    return robust
