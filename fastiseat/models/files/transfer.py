"""Between weight files and networks. Nothing here writes to disk: ``fastiseat.checkpoint`` does."""

from __future__ import annotations

import os
from dataclasses import asdict

import torch
from torch import Tensor, nn

from fastiseat.errors import UserError
from fastiseat.fields import typed
from fastiseat.models.factory import build_spec
from fastiseat.models.files.choices import (
    Numbers,
    Say,
    normalization_of,
    require_variant,
    say_choices,
    variant_of,
    warn,
)
from fastiseat.models.files.layouts import to_layout
from fastiseat.models.files.read import read_weights
from fastiseat.models.network import Network
from fastiseat.models.normalization import Normalization, Normalize, stated
from fastiseat.names.networks import ModelSpec


def load_model(
    path: str | os.PathLike[str],
    *,
    variant: str | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    entry: str | None = None,
    say: Say = warn,
) -> Network:
    """The network in a weight file, in eval mode, on the CPU; it takes NCHW images in [0, 1].

    Its dtype is float64 where the file's is, float32 otherwise. No random number is drawn. A normalisation that the
    file holds, or that ``mean`` and ``std`` say, is the network's first layer.

    Args:
        path: what :func:`~fastiseat.models.files.read.read_weights` reads.
        variant: a name in :data:`~fastiseat.names.networks.FORMS`, for a file that does not tell.
        mean: what the network's code subtracts from images in [0, 1], for a file that does not hold it.
        std: what it divides them by; mean=0 and std=1 say that it does neither.
        entry: the name of the state dict in a torch file that holds several, or the prefix of the network in one that
            holds several.
        say: is told in a line what was taken where the file leaves a choice; by default it warns.

    Raises:
        UserError: an unreadable file, an argument contradicting it, or neither telling what has to be known.
    """
    typed("variant", variant, str | None)
    weights = read_weights(path, entry=entry)
    normalization = normalization_of(weights, mean, std, path)
    chosen = require_variant(weights, variant, path)
    say_choices(weights, path, say, variant=chosen, said=variant)
    spec = ModelSpec(
        arch=weights.arch, variant=chosen, in_channels=weights.in_channels, num_classes=weights.num_classes
    )
    with torch.device("meta"):
        model = build_spec(spec)
    first, _ = next(model.named_parameters())
    dtype = torch.float64 if weights.state[first].dtype == torch.float64 else torch.float32
    model = model.to(dtype).to_empty(device="cpu")
    model.load_state_dict(weights.state)
    _put_before(model, normalization)
    return model.eval()


def init_from(
    model: Network,
    path: str | os.PathLike[str],
    *,
    variant: str | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    entry: str | None = None,
    say: Say = warn,
) -> None:
    """Copy a weight file into an already built network, for fine-tuning; the model's dtype and device stay.

    The normalisation comes along: training goes on with the network that the file holds.

    Args:
        model: a network from :func:`~fastiseat.models.factory.build`.
        path: what :func:`~fastiseat.models.files.read.read_weights` reads.
        variant: what the file is, where it does not tell; by default what the model is.
        mean: as in :func:`load_model`.
        std: as in :func:`load_model`.
        entry: as in :func:`load_model`.
        say: as in :func:`load_model`.

    Raises:
        UserError: an unreadable file, or one of another architecture, variant, channel or class count.
    """
    weights = read_weights(path, entry=entry)
    normalization = normalization_of(weights, mean, std, path)
    chosen = variant_of(weights, variant, path)
    if variant is None and not weights.variant_told and model.spec.variant in weights.variants:
        chosen = model.spec.variant  # it is what the user asked to train
    file = asdict(model.spec) | {
        "arch": weights.arch,
        "variant": chosen,
        "in_channels": weights.in_channels,
        "num_classes": weights.num_classes,
    }
    differing = [name for name, value in asdict(model.spec).items() if file[name] != value]
    if differing:
        raise UserError(
            f"{path} holds {weights}, but the model is {model.spec}; they must agree in "
            f"{', '.join(differing)}: build the model to match, or give another file"
        )
    say_choices(weights, path, say, variant=model.spec.variant, said=variant)
    _put_before(model, None)
    model.load_state_dict(weights.state)
    _put_before(model, normalization)


def set_normalization(model: Network, *, mean: Numbers | None, std: Numbers | None) -> None:
    """Have the network subtract ``mean`` from images in [0, 1] and divide them by ``std`` first; neither where both
    are None.

    Raises:
        UserError: one without the other, another count than the network's channels, values out of range.
    """
    _put_before(model, stated(mean, std, in_channels=model.spec.in_channels))


def export_state_dict(model: nn.Module, layout: str = "released") -> dict[str, Tensor]:
    """The model's state dict under either layout's keys: contiguous clones, of the model's dtype and device.

    A layout is names alone. A released-variant Wide ResNet under common keys computes something else in
    other people's code; our own files' metadata names the variant, and that counts when they are read.

    Raises:
        UserError: ``layout`` is neither ``released`` nor ``common``.
    """
    state = to_layout(model.state_dict(), layout)
    return {key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in state.items()}


def metadata(spec: ModelSpec, **extra: object) -> dict[str, str]:
    """A safetensors file's metadata, as strings: the spec's fields, then ``extra`` (``dataset``, ...)."""
    fields = asdict(spec)
    assert not fields.keys() & extra.keys(), "extra metadata may not restate the spec"
    return {name: str(value) for name, value in {**fields, **extra}.items()}


def _put_before(model: Network, normalization: Normalization | None) -> None:
    if normalization is None or normalization.is_identity:
        model.normalize = None
    else:
        model.normalize = Normalize(normalization).to(next(model.parameters())).train(model.training)
