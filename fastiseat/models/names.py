"""What a network is called. Nothing here imports torch: the config checks names before torch is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from fastiseat.errors import UserError, unknown

Variant = Literal["released", "common"]
"""``released`` is the networks of the ISEAT authors' code, ``common`` those of RobustBench and TRADES."""

VARIANTS: tuple[Variant, ...] = get_args(Variant)

Initialization = Literal["torch", "he"]
"""How first weights are drawn: PyTorch's defaults, or :func:`fastiseat.models.initialization.initialize`'s other."""

INITIALIZATIONS: tuple[Initialization, ...] = get_args(Initialization)

ARCHS: tuple[str, ...] = ("small", "prn18", "wrn-28-10", "wrn-34-10")
"""The names shown in help; any ``wrn-<depth>-<width>`` of depth 6n + 4 is accepted beside them."""

_WRN = re.compile(r"(?:wrn|wide-?resnet)-?(\d+)[-x](\d+)")
_PRN18 = re.compile(r"(?:prn|preact-?resnet)-?18")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a built network is.

    Attributes:
        arch: canonical name, such as ``prn18`` or ``wrn-34-10``.
        variant: ``released`` or ``common``.
        in_channels: colour planes of the input images, at least 1.
        num_classes: logits per image, at least 1.
    """

    arch: str
    variant: Variant
    in_channels: int
    num_classes: int

    def __post_init__(self) -> None:
        for name in ("in_channels", "num_classes"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; a network needs at least 1")

    def __str__(self) -> str:
        return describe(self.arch, self.variant, self.in_channels, self.num_classes)


def canonical_arch(name: str) -> str:
    """The one spelling of a name: ``WRN34-10`` gives ``wrn-34-10``, ``preactresnet18`` gives ``prn18``.

    Raises:
        UserError: no such network, or a Wide ResNet whose depth is not 6n + 4 or whose width is 0.
    """
    spelt = name.strip().lower().replace("_", "-")
    if _PRN18.fullmatch(spelt):
        return "prn18"
    if match := _WRN.fullmatch(spelt):
        depth, width = int(match[1]), int(match[2])
        if depth < 10 or (depth - 4) % 6 or width < 1:
            raise UserError(
                f"network {name!r}: a Wide ResNet has depth 6n + 4 (10, 16, 22, 28, 34, ...) and width 1 or "
                "more; take for instance wrn-28-10 or wrn-34-10"
            )
        return f"wrn-{depth}-{width}"
    if spelt not in ARCHS:
        raise unknown("network", name, ARCHS)
    return spelt


def wrn_size(arch: str) -> tuple[int, int] | None:
    """Depth and width of a canonical ``wrn-<depth>-<width>``; None for the other networks."""
    match = _WRN.fullmatch(arch)
    return (int(match[1]), int(match[2])) if match else None


def canonical_variant(name: str) -> Variant:
    """``name`` itself if it is a variant.

    Raises:
        UserError: it is neither ``released`` nor ``common``.
    """
    if name not in VARIANTS:
        raise unknown("network variant", name, VARIANTS)
    return name


def canonical_initialization(name: str) -> Initialization:
    """``name`` itself if first weights are drawn so.

    Raises:
        UserError: it is neither ``torch`` nor ``he``.
    """
    if name not in INITIALIZATIONS:
        raise unknown("initialization", name, INITIALIZATIONS)
    return name


def describe(arch: str, variant: str | None, in_channels: int, num_classes: int) -> str:
    """A network in words, for messages; a ``variant`` of None is one that nothing tells."""
    stated = f"{variant} variant" if variant else "variant not told"
    return f"{arch} ({stated}, {in_channels} channels, {num_classes} classes)"
