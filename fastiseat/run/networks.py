"""The networks of a run: the one that is trained, and the one without defence that a method compares it with."""

from __future__ import annotations

from pathlib import Path

import torch

from fastiseat import models
from fastiseat.config import Network
from fastiseat.engine.restore import own_randomness
from fastiseat.errors import UserError
from fastiseat.models.files.choices import Say, warn


def build_network(
    network: Network,
    *,
    in_channels: int,
    num_classes: int,
    seed: int,
    checkpoint_blocks: bool = False,
    say: Say = warn,
) -> models.Network:
    """The network with its first weights: drawn from ``seed`` as ``initialization`` says, or those of ``init``.

    ``checkpoint_blocks`` is :class:`~fastiseat.config.Execution`'s. ``say`` is told in a line what was taken where that
    file leaves a choice.
    """
    with own_randomness(torch.device("cpu"), seed):
        model = models.build(
            network.arch,
            variant=network.variant,
            in_channels=in_channels,
            num_classes=num_classes,
            initialization=network.initialization,
        )
    model.checkpoint_blocks = checkpoint_blocks
    mean, std = network.mean or None, network.std or None
    if network.init is None:
        models.set_normalization(model, mean=mean, std=std)
    else:
        models.init_from(model, network.init, mean=mean, std=std, say=_for_training(say))
    return model


def load_standard(path: Path, *, in_channels: int, num_classes: int, say: Say = warn) -> models.Network:
    """The network without defence in a weights file, float32 on the CPU, for images and classes as they are.

    ``say`` is as in :func:`build_network`.
    """
    network = models.load_model(path, say=_for_training(say))
    spec = network.spec
    if (spec.in_channels, spec.num_classes) != (in_channels, num_classes):
        raise UserError(
            f"standard={path}: it holds {spec}, but the data set has {in_channels} colour planes and {num_classes} "
            "classes; give a network trained on it (fastiseat train --method none)"
        )
    return network.float().requires_grad_(False)


def _for_training(say: Say) -> Say:
    return lambda line: say(f"{line} (to train with another one: fastiseat export makes a file of it)")
