"""The networks: build one by name, read one from any weight file, write one in either key layout.

Importing this package does not import torch; the names that need it are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fastiseat.names.networks import (
    ARCHS,
    VARIANTS,
    ModelSpec,
    Variant,
    canonical_arch,
    canonical_variant,
)

if TYPE_CHECKING:
    from fastiseat.models.factory import build
    from fastiseat.models.files.read import Weights, read_weights
    from fastiseat.models.files.transfer import (
        export_state_dict,
        init_from,
        load_model,
        metadata,
        set_normalization,
    )
    from fastiseat.models.network import Network
    from fastiseat.models.preact_resnet import PreActResNet
    from fastiseat.models.wide_resnet import WideResNet

_LAZY = {
    "Network": "network",
    "PreActResNet": "preact_resnet",
    "WideResNet": "wide_resnet",
    "Weights": "files.read",
    "build": "factory",
    "export_state_dict": "files.transfer",
    "init_from": "files.transfer",
    "load_model": "files.transfer",
    "metadata": "files.transfer",
    "read_weights": "files.read",
    "set_normalization": "files.transfer",
}

__all__ = [
    "ARCHS",
    "VARIANTS",
    "ModelSpec",
    "Network",
    "PreActResNet",
    "Variant",
    "Weights",
    "WideResNet",
    "build",
    "canonical_arch",
    "canonical_variant",
    "export_state_dict",
    "init_from",
    "load_model",
    "metadata",
    "read_weights",
    "set_normalization",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
