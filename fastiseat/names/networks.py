"""All networks by name: what each is, where its code lies, and whose code's it can be. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
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
"""Every variant by name."""

Initialization = Literal["torch", "he"]
"""How first weights are drawn: PyTorch's defaults, or :func:`fastiseat.models.initialization.initialize`'s other."""

INITIALIZATIONS: tuple[Initialization, ...] = get_args(Initialization)

# Beyond any that has been trained; what a machine's memory holds is asked when the network is made.
_DEEPEST, _WIDEST = 1000, 1000


@dataclass(frozen=True, kw_only=True)
class Family:
    """A network, or several that differ in size: all that is told of it before torch is loaded.

    Attributes:
        home: the module that holds its code, see :mod:`fastiseat.models.homes`.
        summary: what it is, for lists; of a family with ``examples`` they say it.
        title: what the literature calls it; ``{0}`` and so on are the numbers in its name.
        tag: what the family is called in the Hugging Face Hub's search.
        variants: whose code's it can be, names in :data:`FORMS`; the first is taken where a method asks for another.
        drawn: how the papers' codes draw its first weights; None where no paper has it.
        side: of its images, where no data set tells.
        spelling: what other people call it, in lower case with hyphens; its groups are the numbers in the name.
        named: the one name of such a spelling, for a family of several sizes; else its key in :data:`NETWORKS`.
        examples: names for lists of a family of several sizes, and what each is.
        in_help: how help calls a family of several sizes.
    """

    home: str
    title: str
    tag: str
    summary: str = ""
    variants: tuple[Variant, ...] = ("released",)
    drawn: Initialization | None = None
    side: int = 32
    spelling: str | None = None
    named: Callable[[str, tuple[str, ...]], str] | None = None
    examples: Mapping[str, str] = field(default_factory=dict)
    in_help: str | None = None


def _wide(name: str, size: tuple[str, ...]) -> str:
    depth, width = map(whole_number, size)
    if not 10 <= depth <= _DEEPEST or (depth - 4) % 6 or not 1 <= width <= _WIDEST:
        raise UserError(
            f"network {shown(name)}: a Wide ResNet has depth 6n + 4 (10, 16, 22, 28, 34, ... {_DEEPEST}) and width "
            f"1 to {_WIDEST}; take for instance wrn-28-10 or wrn-34-10"
        )
    return f"wrn-{depth}-{width}"


NETWORKS: dict[str, Family] = {
    "small": Family(
        home="fastiseat.models.preact_resnet",
        summary="a small residual network, for 8×8 digits and first tries",
        title="Small pre-activation ResNet",
        tag="preact-resnet",
        variants=VARIANTS,
        side=8,
    ),
    "prn18": Family(
        home="fastiseat.models.preact_resnet",
        summary="PreActResNet-18",
        title="PreActResNet-18",
        tag="preact-resnet",
        variants=VARIANTS,
        drawn="torch",
        spelling=r"(?:prn|preact-?resnet)-?18",
    ),
    "wrn": Family(
        home="fastiseat.models.wide_resnet",
        title="WideResNet-{0}-{1}",
        tag="wide-resnet",
        variants=("released", "common"),
        drawn="he",
        spelling=r"(?:wrn|wide-?resnet)-?(\d+)[-x](\d+)",
        named=_wide,
        examples={
            "wrn-28-10": "Wide ResNet; any wrn-DEPTH-WIDTH of depth 6n + 4",
            "wrn-34-10": "Wide ResNet, the paper's on CIFAR-10",
        },
        in_help="wrn-DEPTH-WIDTH",
    ),
}
"""Every network; an entry more is all that one needs beside its own file."""


def summaries() -> dict[str, str]:
    """The names that are listed, and what each is."""
    return {
        name: words
        for key, family in NETWORKS.items()
        for name, words in (family.examples or {key: family.summary}).items()
    }


ARCHS: tuple[str, ...] = tuple(summaries())
"""The names that are listed; any ``wrn-<depth>-<width>`` of depth 6n + 4 is accepted beside them."""


def in_help(names: Iterable[str] | None = None) -> str:
    """``small, prn18 or wrn-DEPTH-WIDTH``: all, or those of some keys in :data:`NETWORKS`."""
    called = [NETWORKS[name].in_help or name for name in names or NETWORKS]
    return f"{', '.join(called[:-1])} or {called[-1]}" if called[1:] else called[0]


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
    key, numbers = _read(name)
    named = NETWORKS[key].named
    return key if named is None else named(name, numbers)


def _read(name: str) -> tuple[str, tuple[str, ...]]:
    """The key of its family, and the numbers in the name."""
    spelt = name.strip().lower().replace("_", "-")
    for key, family in NETWORKS.items():
        if match := re.fullmatch(re.escape(key) if family.spelling is None else family.spelling, spelt):
            return key, match.groups()
        if spelt == key and family.named is None:
            return key, ()
    raise unknown("network", name, summaries())


def family_of(arch: str) -> Family:
    """That of a network in any spelling; :class:`UserError` where there is none."""
    return NETWORKS[_read(arch)[0]]


def title(arch: str) -> str:
    """What the literature calls a canonical ``arch``."""
    key, numbers = _read(arch)
    return NETWORKS[key].title.format(*numbers)


def wrn_size(arch: str) -> tuple[int, int] | None:
    """Depth and width of a canonical ``wrn-<depth>-<width>``; None for the other networks."""
    key, numbers = _read(arch)
    return (int(numbers[0]), int(numbers[1])) if key == "wrn" else None


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
    return family_of(arch).variants


def check_variant(arch: str, variant: Variant) -> None:
    """:class:`UserError` where a canonical ``arch`` has no such variant."""
    if variant not in variants_of(arch):
        having = [name for name, family in NETWORKS.items() if variant in family.variants]
        others = f", or {' or '.join(having)}" if having else ""
        raise UserError(
            f"variant {variant!r}: {arch} has {' and '.join(variants_of(arch))} alone; take one of these{others}"
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
