"""What a weight file leaves open: settled by the caller, else by what is usual, and then said."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence

from fastiseat.errors import UserError
from fastiseat.models.files.read import Weights
from fastiseat.models.normalization import Normalization, stated
from fastiseat.names.networks import FORMS, Variant, canonical_variant
from fastiseat.safe import one_line

Numbers = float | Sequence[float]
"""One for all colour planes, or one for each."""

Say = Callable[[str], None]
"""Takes a line."""


def warn(line: str) -> None:
    """Say it where nobody else listens."""
    warnings.warn(one_line(line), RuntimeWarning, stacklevel=4)


def say_choices(
    weights: Weights, path: str | os.PathLike[str], say: Say, *, variant: Variant, said: str | None
) -> None:
    """In one line what was taken that the file does not tell, and what else it may be; nothing where it tells all."""
    lines = [weights.choice] if weights.choice else []
    if said is None and not weights.variant_told:
        others = _alternatives(name for name in weights.variants if name != variant)
        taken = f"taken for {variant!r} ({FORMS[variant].code})"
        lines.append(f"it does not tell the variant of {weights.arch} and is {taken}, else say {others}")
    if lines:
        say(f"{path}: {'; '.join(lines)}")


def require_variant(weights: Weights, said: str | None, path: str | os.PathLike[str]) -> Variant:
    """:func:`variant_of`; :class:`UserError` where nothing tells it."""
    variant = variant_of(weights, said, path)
    if variant is None:
        raise UserError(
            f"{path}: {weights.arch}, and the file does not tell its variant; say {_alternatives(weights.variants)}"
        )
    return variant


def _alternatives(variants: Iterable[Variant]) -> str:
    return " or ".join(f"variant={name!r} ({FORMS[name].code})" for name in variants)


def variant_of(weights: Weights, said: str | None, path: str | os.PathLike[str]) -> Variant | None:
    """What the caller states where the file leaves it open, else what the file says or is taken to be.

    Raises:
        UserError: no variant of that name, or not one of the file's.
    """
    if said is None:
        return weights.variant
    variant = canonical_variant(said)
    if weights.variant_told and weights.variant != variant:
        raise UserError(
            f"{path} holds the {weights.variant} variant of {weights.arch}, which variant={variant!r} "
            "contradicts; leave variant out"
        )
    if variant not in weights.variants:
        raise UserError(
            f"{path} holds {weights.arch} with the keys of {' or '.join(weights.variants)}, which "
            f"variant={variant!r} contradicts; say one of these, or leave variant out"
        )
    return variant


def normalization_of(
    weights: Weights, mean: Numbers | None, std: Numbers | None, path: str | os.PathLike[str]
) -> Normalization | None:
    """What the file holds, else what the caller states.

    Raises:
        UserError: both, and they contradict, or neither where the file speaks of one.
    """
    told, held = stated(mean, std, in_channels=weights.in_channels), weights.normalization
    if told is None and weights.normalization_open:
        raise UserError(
            f"{path}: {weights.normalization_open}; say mean= and std= (0 and 1 if images are taken as they are)"
        )
    if held is None and _tells_all(weights):
        held = Normalization((0.0,) * weights.in_channels, (1.0,) * weights.in_channels)
    if told is not None and held is not None and not held.agrees(told):
        raise UserError(
            f"{path} holds {held}, which {told} contradicts; leave mean and std out (--mean and --std without numbers, "
            "where a recipe has some)"
        )
    return held or told


def _tells_all(weights: Weights) -> bool:
    """Whether a file is of this package's writing: it would hold a normalisation if there were one."""
    return {"arch", "variant", "in_channels", "num_classes"} <= weights.metadata.keys()
