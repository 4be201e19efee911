"""From a name to a network."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from fastiseat.fusion.rewrite import has_hooks
from fastiseat.models.blocks import PreActBlock
from fastiseat.models.homes import home_of
from fastiseat.models.initialization import initialize
from fastiseat.models.network import Network
from fastiseat.names.networks import (
    ModelSpec,
    canonical_arch,
    canonical_initialization,
    canonical_variant,
)


def build(
    arch: str,
    *,
    variant: str = "released",
    in_channels: int = 3,
    num_classes: int = 10,
    initialization: str = "torch",
) -> Network:
    """A freshly initialised network in train mode, of the default dtype and device.

    Args:
        arch: any spelling that :func:`~fastiseat.names.networks.canonical_arch` takes.
        variant: whose code's, a name in :data:`~fastiseat.names.networks.FORMS`: ``released`` (the ISEAT authors'),
            ``common`` (RobustBench's and TRADES'), ...
        in_channels: colour planes of the images.
        num_classes: logits per image.
        initialization: ``torch`` (PyTorch's defaults) or ``he``; see
            :func:`~fastiseat.models.initialization.initialize`.

    Raises:
        UserError: an unknown name, variant or initialization, a variant that ``arch`` lacks, or a count below 1.
    """
    how = canonical_initialization(initialization)
    spec = ModelSpec(
        arch=canonical_arch(arch),
        variant=canonical_variant(variant),
        in_channels=in_channels,
        num_classes=num_classes,
    )
    model = build_spec(spec)
    initialize(model, how)
    return model


def build_spec(spec: ModelSpec) -> Network:
    """:func:`build` for a spec whose names are canonical already, with PyTorch's first weights."""
    return home_of(spec.arch).build(spec)


def has_blocks(arch: str) -> bool:
    """Whether networks of a canonical ``arch`` can keep their residual blocks' inputs alone for the backward."""
    return PreActBlock in home_of(arch).PARTS


def is_as_built(model: nn.Module) -> bool:
    """Whether it is one of the networks, of the parts that it is built of here and without hooks."""
    parts = home_of(model.spec.arch).PARTS if isinstance(model, Network) else frozenset()
    return (
        isinstance(model, Network)
        and not _has_any_global_hook()
        and all(type(module) in parts and not has_hooks(module) for module in model.modules())
    )


def needs_no_autocast(model: nn.Module) -> bool:
    """Whether it computes in half precision what autocast would, if images and convolution weights are of that dtype.

    So do the networks as they are built here. A hook, a layer of another kind and a frozen weight, which stays
    float32, rely on autocast's casts.
    """
    return is_as_built(model) and all(
        weight.requires_grad and weight.dtype == torch.float32 for weight in model.parameters()
    )
