"""Which network a state dict belongs to: what a file of this library says, else what keys and shapes tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.models.factory import build_spec
from fastiseat.models.homes import homes, size_of
from fastiseat.names.networks import ModelSpec, Variant, canonical_arch, canonical_variant, summaries, variants_of


class Identity(NamedTuple):
    """Canonical architecture, the variants that have these keys and shapes, input channels, class count."""

    arch: str
    variants: tuple[Variant, ...]
    in_channels: int
    num_classes: int


def said(metadata: Mapping[str, str]) -> ModelSpec | None:
    """The network that a file of this library says it holds; None where it does not say a whole one of today's."""
    told = {field.name: metadata.get(field.name, "") for field in fields(ModelSpec)}
    try:
        return ModelSpec(
            arch=canonical_arch(told["arch"]),
            variant=canonical_variant(told["variant"]),
            in_channels=int(told["in_channels"]),
            num_classes=int(told["num_classes"]),
        )
    except (UserError, ValueError):
        return None


def believed(spec: ModelSpec | None, state: Mapping[str, Tensor]) -> Identity | None:
    """What ``spec`` says of ``state``, where these are its keys and shapes; None where they are not."""
    if spec is None or _misfit(spec, state):
        return None
    alike = [name for name in variants_of(spec.arch) if not _misfit(replace(spec, variant=name), state)]
    return Identity(spec.arch, tuple(alike), spec.in_channels, spec.num_classes)


def identify(state: Mapping[str, Tensor], spec: ModelSpec | None = None) -> Identity:
    """The network whose keys and shapes ``state`` (in the released layout, without prefixes) has exactly.

    Args:
        state: its tensors by their keys.
        spec: what the file says that it is, of which the message speaks where no keys are recognised.

    Raises:
        UserError: keys of no known network, keys missing or left over, shapes that disagree.
    """
    found = next((each for home in homes() if (each := home.recognised(state))), None)
    if found is None and spec is not None:
        raise UserError(_misfit(spec, state))
    if found is None:
        raise UserError(
            f"its keys ({_few(list(state))}) are those of no known network; known: {', '.join(summaries())} and "
            "any other wrn-<depth>-<width>"
        )
    in_channels, num_classes = size_of(state, found.stem, axis=1), size_of(state, found.head, axis=0)
    identity = Identity(found.arch, found.variants, in_channels, num_classes)
    # Their shapes are the same.
    nearest = ModelSpec(
        arch=found.arch, variant=found.variants[0], in_channels=in_channels, num_classes=num_classes
    )
    if wrong := _misfit(nearest, state):
        raise UserError(wrong)
    return identity


def _misfit(spec: ModelSpec, state: Mapping[str, Tensor]) -> str:
    """In which keys or shapes ``state`` is not that network's; empty where in none."""
    expected = _shapes(spec)
    missing = [key for key in expected if key not in state]
    surplus = [key for key in state if key not in expected]
    if missing or surplus:
        return (
            f"{spec.arch} is the nearest known network, but missing keys: {_few(missing)}; unexpected keys: "
            f"{_few(surplus)}; give a file with exactly that network's state dict"
        )
    for key, shape in expected.items():
        if state[key].shape != shape:
            return (
                f"{key} has shape {tuple(state[key].shape)}, but {tuple(shape)} in {spec.arch} with "
                f"{spec.in_channels} input channels and {spec.num_classes} classes; give a file of such a network"
            )
    return ""


@lru_cache(maxsize=16)  # variants by turns, and the same file twice
def _shapes(spec: ModelSpec) -> Mapping[str, torch.Size]:
    with torch.device("meta"):  # where building draws no random number
        return {key: tensor.shape for key, tensor in build_spec(spec).state_dict().items()}


def _few(keys: Sequence[str], *, limit: int = 3) -> str:
    shown = ", ".join(keys[:limit])
    return f"{shown} and {len(keys) - limit} more" if len(keys) > limit else shown or "none"
