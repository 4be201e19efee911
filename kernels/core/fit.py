"""Why a backend cannot serve a call, in words that are empty where it can: what every backend asks."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor


def unreadable(*tensors: Tensor | None) -> str:
    """Why no kernel can read these: no plain tensors, several devices, or a gradient that it would not have."""
    given = [tensor for tensor in tensors if tensor is not None]
    # A subclass may hold its values anywhere, or nowhere: a pointer says nothing about it.
    if any(type(tensor) not in (Tensor, torch.nn.Parameter) for tensor in given):
        return "an argument is no plain tensor"
    if len({tensor.device for tensor in given}) > 1:
        return "the arguments lie on several devices"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        return "an argument requires grad"
    return ""


def unserved(name: str, value: str, served: Collection[str]) -> str:
    """Why a backend does not know a choice: it never takes one that it lacks for one that it has."""
    return "" if value in served else f"serves {name} {' or '.join(served)}, not {value!r}"
