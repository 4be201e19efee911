"""The first weights of a network, where they are not PyTorch's."""

from __future__ import annotations

import math

import torch
from torch import nn

from fastiseat.names.networks import Initialization


def initialize(model: nn.Module, how: Initialization) -> None:
    """Give a freshly built network its first weights, drawn from PyTorch's global generator.

    ``torch`` leaves what its layers drew. ``he`` redraws each convolution from N(0, 2 / (k² · out_channels)) (He et
    al., 2015, by the fan out) and sets the head's bias to 0; BatchNorms stay at weight 1 and bias 0, the head's weight
    as it was drawn. So do the Wide ResNets of TRADES, Rice et al., Wu et al. and most codes built on them.
    """
    match how:
        case "torch":
            return
        case "he":
            _draw_he(model)


@torch.no_grad()
def _draw_he(model: nn.Module) -> None:
    for module in model.modules():
        match module:
            case nn.Conv2d():
                fan_out = math.prod(module.kernel_size) * module.out_channels
                module.weight.normal_(0, math.sqrt(2 / fan_out))
            case nn.Linear():
                module.bias.zero_()
