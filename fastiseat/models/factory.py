"""From a name to a network."""

from __future__ import annotations

from fastiseat.models.blocks import Network
from fastiseat.models.names import ModelSpec, canonical_arch, canonical_variant, wrn_size
from fastiseat.models.preact_resnet import SIZES, PreActResNet
from fastiseat.models.wide_resnet import WideResNet


def build(arch: str, *, variant: str = "released", in_channels: int = 3, num_classes: int = 10) -> Network:
    """A freshly initialised network (PyTorch's defaults) in train mode, of the default dtype and device.

    Args:
        arch: any spelling that :func:`~fastiseat.models.names.canonical_arch` takes.
        variant: ``released`` (the ISEAT authors' networks) or ``common`` (RobustBench's and TRADES').
        in_channels: colour planes of the images.
        num_classes: logits per image.

    Raises:
        UserError: an unknown name or variant, or a count below 1.
    """
    spec = ModelSpec(
        arch=canonical_arch(arch),
        variant=canonical_variant(variant),
        in_channels=in_channels,
        num_classes=num_classes,
    )
    return build_spec(spec)


def build_spec(spec: ModelSpec) -> Network:
    """:func:`build` for a spec whose names are canonical already."""
    if size := wrn_size(spec.arch):
        depth, width = size
        return WideResNet(spec, depth=depth, width=width)
    depths, widths = SIZES[spec.arch]
    return PreActResNet(spec, depths=depths, widths=widths)
