"""Fused operations: each has a plain-PyTorch reference, which defines it, and may have faster backends."""

if __name__ != "fastiseat.kernels":
    raise ImportError(
        f"this folder is the package fastiseat.kernels, not {__name__!r}: import it by that name, "
        "after `pip install -e .` in a checkout"
    )

import os
from importlib import import_module

import torch

from fastiseat.kernels.augment import augment
from fastiseat.kernels.bn_act import bn_act, bn_act_eval, update_running_stats
from fastiseat.kernels.core.dispatch import AUTO, VARIABLE, AnyOp
from fastiseat.kernels.core.segments import Segments
from fastiseat.kernels.idbh import idbh
from fastiseat.kernels.pgd_step import pgd_step
from fastiseat.kernels.sgd import sgd
from fastiseat.kernels.stability_loss import stability_loss
from fastiseat.kernels.weight_perturb import weight_perturb

__all__ = [
    "Segments",
    "augment",
    "bn_act",
    "bn_act_eval",
    "idbh",
    "pgd_step",
    "sgd",
    "stability_loss",
    "update_running_stats",
    "weight_perturb",
]

_PACKAGES = ("augment", "bn_act", "idbh", "pgd_step", "sgd", "stability_loss", "weight_perturb")

FIRST_DTYPES = {"augment": torch.uint8, "idbh": torch.uint8}
"""Of the ops whose first argument is not float32 in training: dispatch goes by it."""


def ops() -> list[AnyOp]:
    """The ops behind the functions of this package: what tells how a call will be served."""
    packages = (import_module(f"fastiseat.kernels.{name}") for name in _PACKAGES)
    return [op for package in packages for op in package._OPS]


def check_choice(device: torch.device) -> None:
    """Raise UserError where ``FASTISEAT_KERNELS`` asks for what does not exist or cannot serve on ``device``."""
    for op in ops():
        op.explain(device, FIRST_DTYPES.get(op.name, torch.float32), os.environ.get(VARIABLE) or AUTO)
