"""The networks as people write them: ``nn.BatchNorm2d``, ``torch.relu`` and ``+``, one after the other."""

from __future__ import annotations

import torch
from torch import nn

from fastiseat.models import Network
from fastiseat.models.homes import home_of


def plain(model: nn.Module) -> nn.Module:
    """The network that ``model`` is, written plainly, over the same tensors; any other module is returned as it is."""
    if not isinstance(model, Network):
        return model
    with torch.device("meta"):
        twin = home_of(model.spec.arch).plain(model.spec)
    twin.load_state_dict(model.state_dict(), assign=True)
    return twin.train(model.training)
