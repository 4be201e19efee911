"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable

from fastiseat.errors import unknown
from fastiseat.pipelines.base import DataSet


def _digits() -> DataSet:
    from fastiseat.pipelines.formats import digits  # scikit-learn takes a second to import

    return digits.read()


DATASETS: dict[str, Callable[[], DataSet]] = {"digits": _digits}


def load(name: str) -> DataSet:
    """The data set ``name``; :class:`fastiseat.errors.UserError` for an unknown one."""
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return DATASETS[name]()
