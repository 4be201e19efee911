"""Which network a state dict belongs to, from its keys and shapes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.models.factory import build_spec
from fastiseat.models.layouts import layout_of
from fastiseat.names.networks import ARCHS, FORMS, ModelSpec, Variant, canonical_arch, variants_of


class Identity(NamedTuple):
    """Canonical architecture, the variants that have these keys and shapes, input channels, class count."""

    arch: str
    variants: tuple[Variant, ...]
    in_channels: int
    num_classes: int


def identify(state: Mapping[str, Tensor]) -> Identity:
    """The network whose keys and shapes ``state`` (in the released layout, without prefixes) has exactly.

    Raises:
        UserError: keys of no known network, keys missing or left over, shapes that disagree.
    """
    if layout_of(state) == "released":
        arch, head = _wide_resnet(state), "fc0.weight"
    elif "linear.weight" in state and "layer1.0.conv1.weight" in state:
        arch, head = "prn18" if "layer4.0.conv1.weight" in state else "small", "linear.weight"
    else:
        raise UserError(
            f"its keys ({_few(list(state))}) are those of no known network; known: {', '.join(ARCHS)} and "
            "any other wrn-<depth>-<width>"
        )
    in_channels, num_classes = _size(state, "conv1.weight", axis=1), _size(state, head, axis=0)
    identity = Identity(arch, _variants(arch, state), in_channels, num_classes)
    _check_fit(state, identity)
    return identity


def _variants(arch: str, state: Mapping[str, Tensor]) -> tuple[Variant, ...]:
    """Those of ``arch`` that have BatchNorms where ``state`` has them."""
    known = variants_of(arch)
    if layout_of(state) is not None:
        return known
    stem, last = (any(key.startswith(f"{name}.") for key in state) for name in ("bn1", "bn"))
    found = tuple(name for name in known if (FORMS[name].stem_norm, FORMS[name].last_norm) == (stem, last))
    return found or ("released",)  # its keys are the nearest, and what they differ in is told


def _wide_resnet(state: Mapping[str, Tensor]) -> str:
    num_blocks = len({key.split(".")[1] for key in state if key.startswith("layer1.block")})
    channels = _size(state, "layer1.block0.conv1.weight", axis=0)
    if channels % 16:
        raise UserError(
            f"layer1.block0.conv1.weight has {channels} channels; a Wide ResNet's are a multiple of 16"
        )
    return canonical_arch(f"wrn-{6 * num_blocks + 4}-{channels // 16}")


def _size(state: Mapping[str, Tensor], key: str, *, axis: int) -> int:
    if key not in state:
        raise UserError(f"it lacks the key {key}; give a file that holds a whole network")
    shape = state[key].shape
    if len(shape) <= axis:
        raise UserError(f"{key} has shape {tuple(shape)}; a weight tensor has two dimensions or more")
    return shape[axis]


def _check_fit(state: Mapping[str, Tensor], identity: Identity) -> None:
    arch, variants, in_channels, num_classes = identity
    # Their shapes are the same, and building on the meta device draws no random number.
    spec = ModelSpec(arch=arch, variant=variants[0], in_channels=in_channels, num_classes=num_classes)
    with torch.device("meta"):
        expected = build_spec(spec).state_dict()
    missing = [key for key in expected if key not in state]
    surplus = [key for key in state if key not in expected]
    if missing or surplus:
        raise UserError(
            f"{arch} is the nearest known network, but missing keys: {_few(missing)}; unexpected keys: "
            f"{_few(surplus)}; give a file with exactly that network's state dict"
        )
    for key, tensor in expected.items():
        if state[key].shape != tensor.shape:
            raise UserError(
                f"{key} has shape {tuple(state[key].shape)}, but {tuple(tensor.shape)} in {arch} with "
                f"{in_channels} input channels and {num_classes} classes; give a file of such a network"
            )


def _few(keys: Sequence[str], *, limit: int = 3) -> str:
    shown = ", ".join(keys[:limit])
    return f"{shown} and {len(keys) - limit} more" if len(keys) > limit else shown or "none"
