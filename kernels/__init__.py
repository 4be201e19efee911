"""Fused operations: each has a plain-PyTorch reference, which defines it, and may have faster backends."""

if __name__ != "fastiseat.kernels":
    raise ImportError(
        f"this folder is the package fastiseat.kernels, not {__name__!r}: import it by that name, "
        "after `pip install -e .` in a checkout"
    )

from importlib import import_module
from typing import Any

from fastiseat.kernels.augment import augment
from fastiseat.kernels.dispatch import Op
from fastiseat.kernels.idbh import idbh
from fastiseat.kernels.pgd_step import pgd_step

__all__ = ["augment", "idbh", "pgd_step"]


def ops() -> list[Op[Any, Any]]:
    """The ops behind the functions of this package: what tells how a call will be served."""
    return [import_module(f"fastiseat.kernels.{name}")._OP for name in __all__]
