"""What ``fastiseat.evaluate`` is asked, in the types that it computes with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastiseat.config import Pixels
from fastiseat.evaluation.attack import Attack, EnsembleAttack
from fastiseat.fields import MOST_STEPS, check_types, require_count, require_seed, typed

AnyAttack = str | Attack | EnsembleAttack


def attacks_given(attacks: AnyAttack | Sequence[AnyAttack]) -> list[AnyAttack]:
    """Each of them; one alone needs no list."""
    alone = isinstance(attacks, AnyAttack) or not isinstance(attacks, Iterable)
    return [typed("attacks", attack, AnyAttack) for attack in ([attacks] if alone else attacks)]  # type: ignore[union-attr]


def length_given(eps: object) -> float | None:
    """ε as a number or a fraction in words, 8/255; None where there is none."""
    found: float | None = typed("eps", eps, Pixels | None)
    return found


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The other arguments; a name that is unknown is refused where something is chosen by it."""

    norm: str
    restarts: int
    batch_size: int
    precision: str
    engine: str
    seed: int
    sanity: bool

    def __post_init__(self) -> None:
        check_types(self)
        require_count(1, "restarts", self.restarts, most=MOST_STEPS)
        require_count(1, "batch_size", self.batch_size)
        require_seed(self.seed)
