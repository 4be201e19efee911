"""What a network is called. Nothing here imports torch: the config checks names before torch is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from fastiseat.errors import UserError, unknown
from fastiseat.fields import shown, whole_number

Variant = Literal["released", "common", "released-no-bn", "common-no-bn", "consistency", "consistency-stride-2"]
"""Whose code a network is that of: the keys of :data:`FORMS`."""

VARIANTS: tuple[Variant, ...] = get_args(Variant)


@dataclass(frozen=True, kw_only=True)
class Form:
    """What sets the networks of a variant apart.

    Attributes:
        code: whose networks these are, in words.
        shortcut_reads_input: whether shortcut convolutions read a block's raw input x, rather than relu(bn1(x)).
        wide_strides: of conv1 and conv2 in a Wide ResNet's block that halves; None where there are no such networks.
        stem_norm: whether BatchNorm and ReLU follow a PreActResNet's first convolution.
        stem_stride: of that convolution.
        last_norm: whether BatchNorm and ReLU follow a PreActResNet's last block.
    """

    code: str
    shortcut_reads_input: bool
    wide_strides: tuple[int, int] | None = None
    stem_norm: bool = False
    stem_stride: int = 1
    last_norm: bool = True


FORMS: dict[Variant, Form] = {
    "released": Form(code="the ISEAT authors' code", shortcut_reads_input=True, wide_strides=(1, 2)),
    "common": Form(code="RobustBench and TRADES", shortcut_reads_input=False, wide_strides=(2, 1)),
    "released-no-bn": Form(
        code="RobustBench's Wong2020Fast and Andriushchenko2020", shortcut_reads_input=True, last_norm=False
    ),
    "common-no-bn": Form(code="kuangliu's pytorch-cifar", shortcut_reads_input=False, last_norm=False),
    "consistency": Form(code="Tack et al., 2022", shortcut_reads_input=False, stem_norm=True, last_norm=False),
    "consistency-stride-2": Form(
        code="Tack et al., 2022, on Tiny ImageNet",
        shortcut_reads_input=False,
        stem_norm=True,
        stem_stride=2,
        last_norm=False,
    ),
}
"""Every variant; an entry more, and its name above, is all that another one needs."""

Initialization = Literal["torch", "he"]
"""How first weights are drawn: PyTorch's defaults, or :func:`fastiseat.models.initialization.initialize`'s other."""

INITIALIZATIONS: tuple[Initialization, ...] = get_args(Initialization)

ARCHS: tuple[str, ...] = ("small", "prn18", "wrn-28-10", "wrn-34-10")
"""The names shown in help; any ``wrn-<depth>-<width>`` of depth 6n + 4 is accepted beside them."""

_WRN = re.compile(r"(?:wrn|wide-?resnet)-?(\d+)[-x](\d+)")
# Beyond any that has been trained; what a machine's memory holds is asked when the network is made.
_DEEPEST, _WIDEST = 1000, 1000
_PRN18 = re.compile(r"(?:prn|preact-?resnet)-?18")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a built network is.

    Attributes:
        arch: canonical name, such as ``prn18`` or ``wrn-34-10``.
        variant: one of :data:`FORMS` that ``arch`` has.
        in_channels: colour planes of the input images, at least 1.
        num_classes: logits per image, at least 1.
    """

    arch: str
    variant: Variant
    in_channels: int
    num_classes: int

    def __post_init__(self) -> None:
        check_variant(self.arch, self.variant)
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
        depth, width = whole_number(match[1]), whole_number(match[2])
        if not 10 <= depth <= _DEEPEST or (depth - 4) % 6 or not 1 <= width <= _WIDEST:
            raise UserError(
                f"network {shown(name)}: a Wide ResNet has depth 6n + 4 (10, 16, 22, 28, 34, ... {_DEEPEST}) and width "
                f"1 to {_WIDEST}; take for instance wrn-28-10 or wrn-34-10"
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
        UserError: it is none.
    """
    if name not in FORMS:
        raise unknown("network variant", name, VARIANTS)
    return name


def variants_of(arch: str) -> tuple[Variant, ...]:
    """Those that a canonical ``arch`` has."""
    return tuple(name for name, form in FORMS.items() if form.wide_strides or wrn_size(arch) is None)


def check_variant(arch: str, variant: Variant) -> None:
    """:class:`UserError` where a canonical ``arch`` has no such variant."""
    if variant not in variants_of(arch):
        raise UserError(
            f"variant {variant!r}: {arch} has {' and '.join(variants_of(arch))} alone; take one of these, or small or "
            "prn18"
        )


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
