"""Fused operations: each has a plain-PyTorch reference, which defines it, and may have faster backends."""

if __name__ != "fastiseat.kernels":
    raise ImportError(
        f"this folder is the package fastiseat.kernels, not {__name__!r}: import it by that name, "
        "after `pip install -e .` in a checkout"
    )

from importlib import import_module

from fastiseat.kernels.augment import augment
from fastiseat.kernels.bn_act import bn_act, bn_act_eval, update_running_stats
from fastiseat.kernels.dispatch import AnyOp
from fastiseat.kernels.idbh import idbh
from fastiseat.kernels.pgd_step import pgd_step
from fastiseat.kernels.stability_loss import stability_loss

__all__ = ["augment", "bn_act", "bn_act_eval", "idbh", "pgd_step", "stability_loss", "update_running_stats"]

_PACKAGES = ("augment", "bn_act", "idbh", "pgd_step", "stability_loss")


def ops() -> list[AnyOp]:
    """The ops behind the functions of this package: what tells how a call will be served."""
    packages = (import_module(f"fastiseat.kernels.{name}") for name in _PACKAGES)
    return [op for package in packages for op in package._OPS]
